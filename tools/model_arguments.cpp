#include "model_arguments.h"

#include "fusion/base/log.h"
#include "fusion/train/find_model.h"
#include "fusion/train/runtime.h"

namespace fusion::tools {
namespace {

const std::map<std::string, at::ScalarType> kDtypes = {{"fp32", at::kFloat}, {"bf16", at::kBFloat16}, {"fp16", at::kHalf}};

template <class E>
CLI::IsMember names_of() {
  return CLI::IsMember(enum_names(static_cast<const E*>(nullptr)));
}

}  // namespace

void ModelArguments::add_to(CLI::App& command) {
  command.add_option("--model", model, "Model folder, or a run or stage folder: then its newest export or checkpoint")
      ->required()
      ->check(CLI::ExistingDirectory);
  command.add_option("--dtype", dtype, "fp32, bf16 or fp16; default: torch_dtype of config.json")->check(CLI::IsMember({"fp32", "bf16", "fp16"}));
  command.add_option("--template", chat_template, "Chat template; default: the folder's own")->check(names_of<Template>());
  command.add_option("--query-len", query_len, "Latents per question, a perfect square; default: the model's own")->check(CLI::PositiveNumber);
  command.add_option("--output-grid", output_grid, "Side of the image grid that enters the decoder (FUSION-L: 12); default: the model's own")
      ->check(CLI::PositiveNumber);
  command.add_option("--device", device, "automatic takes a GPU when there is one")->check(names_of<Device>())->capture_default_str();
  command.add_option("--threads", threads, "Threads inside one operator; 0 = one per core")->check(CLI::NonNegativeNumber)->capture_default_str();
}

LoadedModel ModelArguments::load() const {
  LoadOptions options;
  RuntimeConfig runtime;
  runtime.device = *enum_value<Device>(device);
  runtime.threads = threads;
  options.device = setup_runtime(runtime);
  if (!dtype.empty()) options.dtype = kDtypes.at(dtype);
  if (!chat_template.empty()) options.chat_template = enum_value<Template>(chat_template);
  options.output_grid = output_grid;
  LoadedModel loaded = load_for_inference(find_model_folder(model), options);
  const ParameterStore& store = loaded.model->parameters();
  log::info("{}: {:.1f} M parameters, {} on {}", loaded.folder.string(), static_cast<double>(store.numel()) / 1e6, torch_dtype_name(store.dtype()),
            store.device().str());
  return loaded;
}

void SamplingArguments::add_to(CLI::App& command) {
  SamplingOptions& sampling = options.sampling;
  CLI::Option* temperature =
      command.add_option("--temperature", sampling.temperature, "Draws tokens; without it the likeliest is taken")->check(CLI::PositiveNumber);
  command.add_option("--top-p", sampling.top_p, "Smallest set of likeliest tokens with this probability")->needs(temperature);
  command.add_option("--top-k", sampling.top_k, "Number of likeliest tokens")->needs(temperature)->check(CLI::PositiveNumber);
  command.add_option("--seed", sampling.seed, "Same seed, same draws")->needs(temperature);
  command.add_option("--max-new-tokens", options.max_new_tokens, "Longest answer")->check(CLI::PositiveNumber)->capture_default_str();
}

}  // namespace fusion::tools
