#include "fusion/study/convert.h"

#include "fusion/base/error.h"
#include "fusion/text/tokenizer.h"
#include "fusion/train/find_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_vector_norm.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

namespace fusion {
namespace {

constexpr int64_t kPiece = int64_t{1} << 22;  // numbers compared at a time

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

/// Values of two tensors of one shape, piece by piece.
void compare_values(const at::Tensor& a, const at::Tensor& b, TensorDifference& difference) {
  double square = 0, reference = 0;
  const auto left = a.reshape({-1}), right = b.reshape({-1});
  for (int64_t first = 0; first < left.numel(); first += kPiece) {
    const int64_t count = std::min(kPiece, left.numel() - first);
    const auto x = left.narrow(0, first, count).to(at::kFloat), gap = (x - right.narrow(0, first, count).to(at::kFloat)).abs();
    difference.largest = std::max(difference.largest, gap.max().item<double>());
    square += std::pow(at::linalg_vector_norm(gap).item<double>(), 2);
    reference += std::pow(at::linalg_vector_norm(x).item<double>(), 2);
  }
  difference.relative = square == 0 ? 0 : std::sqrt(square) / std::max(std::sqrt(reference), 1e-30);
}

}  // namespace

std::string official_name_problem(const fs::path& folder, DecoderType type) {
  const std::string path = lower(fs::absolute(folder).lexically_normal().string());
  const std::string name = lower(folder.has_filename() ? folder.filename().string() : folder.parent_path().filename().string());
  const auto has = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };
  if (!has(name, "fusion")) return fmt::format("the name '{}' does not hold \"fusion\"", name);
  if (type == DecoderType::phi3) return has(name, "phi") ? "" : fmt::format("the name '{}' does not hold \"phi\", so a LLaMA would be made", name);
  if (type == DecoderType::qwen2) return has(name, "qwen") ? "" : fmt::format("the name '{}' does not hold \"qwen\", so a LLaMA would be made", name);
  for (const char* other : {"phi", "qwen", "mpt", "mistral"})
    if (has(path, other)) return fmt::format("the path '{}' holds \"{}\", so another decoder than LLaMA would be made", path, other);
  return "";
}

std::vector<WrittenFile> copy_model(const CopyOptions& options) {
  const fs::path from = find_model_folder(options.from);
  FolderContent content;
  content.config = load_folder_config(from);
  const ModelConfig& model = content.config.model;
  if (options.official) {
    const std::string problem = official_name_problem(options.to, model.decoder.type);
    FUSION_CHECK(problem.empty(), "convert: the official code picks its classes by the folder's name, and {}; choose a name like fusion-{}", problem,
                 model.decoder.type == DecoderType::phi3    ? "phi3"
                 : model.decoder.type == DecoderType::qwen2 ? "qwen2"
                                                            : "llama");
    const auto beyond = beyond_official(content.config);
    FUSION_CHECK(beyond.empty(), "convert: {} has {} that the official code does not know: it would load the folder and run another model",
                 from.string(), fmt::join(beyond, ", "));
  }
  const Weights weights = open_weights(from, model);
  const auto tokenizer = load_tokenizer(from);
  FUSION_CHECK(tokenizer->size() <= model.decoder.vocab_size, "convert: {}: the tokenizer has {} tokens, but vocab_size is {}", from.string(),
               tokenizer->size(), model.decoder.vocab_size);
  if (options.dtype) content.config.torch_dtype = *options.dtype;
  for (const NamedShape& parameter : parameter_table(model)) {
    TensorSpec spec = weights.spec(parameter.name);
    if (options.dtype) spec.dtype = *options.dtype;
    content.tensors.push_back(std::move(spec));
  }
  content.source = [&](const TensorSpec& spec) { return weights.tensor(spec.name).to(spec.dtype); };
  content.more_files = [&](const fs::path& folder) { tokenizer->save(folder); };
  content.shard_bytes = options.shard_bytes;
  content.replace = options.replace;
  return write_folder(options.to, content);
}

std::vector<TensorDifference> compare_models(const fs::path& a, const fs::path& b) {
  const at::NoGradGuard no_grad;
  const Weights left(find_model_folder(a)), right(find_model_folder(b));
  std::set<std::string> names;
  for (const auto& [name, file] : left.names()) names.insert(name);
  for (const auto& [name, file] : right.names()) names.insert(name);
  std::vector<TensorDifference> differences;
  for (const std::string& name : names) {
    TensorDifference& difference = differences.emplace_back();
    difference.name = name;
    if (!left.contains(name) || !right.contains(name)) {
      difference.problem = fmt::format("only in {}", (left.contains(name) ? left : right).folder().string());
      continue;
    }
    const TensorSpec x = left.spec(name), y = right.spec(name);
    if (x.shape != y.shape) {
      difference.problem = fmt::format("shape {} and {}", shape_text(x.shape), shape_text(y.shape));
      continue;
    }
    if (x.dtype == y.dtype) {
      const auto p = left.bytes(name), q = right.bytes(name);
      difference.equal_bytes = p.empty() || std::memcmp(p.data(), q.data(), p.size()) == 0;
    }
    if (!difference.equal_bytes) compare_values(left.tensor(name), right.tensor(name), difference);
  }
  return differences;
}

Json describe_model(const fs::path& given) {
  const fs::path folder = find_model_folder(given);
  const FolderConfig config = load_folder_config(folder);
  const Weights weights(folder);
  const TensorDifferences differences = compare_tensors(weights, parameter_table(config.model));
  Json parts = Json::object(), types = Json::object();
  int64_t total = 0;
  for (const auto& [name, file] : weights.names()) {
    const TensorSpec spec = weights.spec(name);
    int64_t count = 1;
    for (const int64_t size : spec.shape) count *= size;
    Json& part = parts[part_of(name)];
    if (part.is_null()) part = Json::object();
    part["tensors"] = part.value("tensors", int64_t{0}) + 1;
    part["parameters"] = part.value("parameters", int64_t{0}) + count;
    part["bytes"] = part.value("bytes", uint64_t{0}) + spec.bytes();
    types[dtype_name(spec.dtype)] = types.value(dtype_name(spec.dtype), int64_t{0}) + count;
    total += count;
  }
  const auto& [decoder, tower, card] = std::tie(config.model.decoder, config.model.tower, config.model.card);
  return {{"folder", folder.string()},
          {"decoder", fmt::format("{}, width {}, {} layers, {} heads ({} for keys), vocabulary {}", enum_name(decoder.type), decoder.hidden_size,
                                  decoder.num_hidden_layers, decoder.num_attention_heads, decoder.num_key_value_heads, decoder.vocab_size)},
          {"tower", fmt::format("{} ({}), width {}, {} of {} layers, {} px in patches of {}", tower.name, enum_name(tower.type), tower.hidden_size,
                                tower.layers(), tower.num_hidden_layers, tower.image_size, tower.patch_size)},
          {"interaction", card.enabled ? fmt::format("{} layers from {} in steps of {}, window {}, latents {}", card.layers, card.start, card.stride,
                                                     card.window, fmt::join(card.query_lens, ", "))
                                       : std::string("none")},
          {"parameters", total},
          {"bytes", weights.total_bytes()},
          {"files", weights.files().size()},
          {"types", types},
          {"parts", parts},
          {"complete", differences.none()},
          {"differences", differences.text()},
          {"beyond_official", beyond_official(config)}};
}

}  // namespace fusion
