#include "fusion/base/log.h"
#include "fusion/infer/evaluate.h"
#include "model_arguments.h"
#include "tools.h"

namespace fusion::tools {
namespace {

struct EvalArguments {
  ModelArguments model;
  EvaluateOptions options;
  std::string data, image_folder;
  bool json = false;
};

void print_table(const Evaluation& result, const LossConfig& loss) {
  const auto percent = [](double part) { return 100.0 * part; };
  fmt::print("samples         {} used, {} left out\n", result.samples, result.rejected.size());
  fmt::print("exact match     {:.1f} % ({} of {} answers); always the commonest answer of a question: {:.1f} %\n", percent(result.exact_match()),
             result.exact, result.answers, percent(result.baseline()));
  fmt::print("token accuracy  {:.1f} % of {} tokens\n", percent(result.token_accuracy()), result.tokens);
  fmt::print("loss            {:.4f} = ce {:.4f} + {} x (v2t {:.4f} + t2v {:.4f})\n", result.loss, result.ce, loss.dsm_weight, result.v2t,
             result.t2v);
}

void eval(const EvalArguments& arguments) {
  const LoadedModel model = arguments.model.load();
  const ModelConfig& config = model.model->config();
  EvaluateOptions options = arguments.options;
  options.query_len = inference_query_len(config.card, arguments.model.query_len);
  options.sample = inference_samples(config, model.config.max_length, options.query_len);
  const auto data = std::make_shared<const Mixture>(arguments.data, arguments.image_folder, 0);
  const Evaluation result = evaluate(*model.model, data, model.encoder, options);
  for (const Rejection& rejection : result.rejected) log::warn("eval: {}: sample '{}' left out: {}", rejection.where, rejection.id, rejection.reason);
  if (arguments.json)
    fmt::print("{}", dump_json(result.to_json()));
  else
    print_table(result, config.loss);
}

}  // namespace

void add_eval(CLI::App& app, ExitCode&) {
  auto arguments = std::make_shared<EvalArguments>();
  CLI::App* command = app.add_subcommand("eval", "Loss and exact match over a LLaVA file: the figures of the evaluation during training.");
  command->add_option("--data", arguments->data, "LLaVA .json or .jsonl file, shards, or a mixture YAML")->required();
  command->add_option("--image-folder", arguments->image_folder, "Root of relative picture paths; default: the folder of --data")
      ->check(CLI::ExistingDirectory);
  command->add_option("--samples", arguments->options.samples, "First samples that are used; 0 = all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--batch", arguments->options.batch, "Samples per forward pass")->check(CLI::PositiveNumber)->capture_default_str();
  command->add_flag("--json", arguments->json, "Print one JSON object");
  arguments->model.add_to(*command);
  command->callback([arguments] { eval(*arguments); });
}

}  // namespace fusion::tools
