// Greedy generation of a reference case: ids over the reliable prefix, positions of the prompt.
#include "verify_steps.h"

#include "fusion/base/error.h"
#include "fusion/model/layout.h"

#include <ATen/TensorOperators.h>

namespace fusion {
namespace {

std::vector<int64_t> integers(const Json& list) { return list.get<std::vector<int64_t>>(); }

// Questions and latents of each sample, as the layout of the prefill placed them.
struct Positions {
  std::vector<int64_t> questions, latents;
  int64_t length = 0;
};

Batch prompt_batch(const Json& entry, const SafetensorsFile& tiles) {
  Batch batch;
  batch.ids = {entry.at("name").get<std::string>()};
  batch.images.emplace_back();
  batch.positions = {0};
  batch.input_ids = integers(entry.at("input_ids"));
  if (!entry.at("labels").is_null()) batch.labels = integers(entry.at("labels"));
  batch.tokens.push(static_cast<int64_t>(batch.input_ids.size()));
  batch.instruct = integers(entry.at("instructs"));
  batch.instruct_offsets.push(static_cast<int64_t>(batch.instruct.size()));
  const auto name = entry.at("tiles").get<std::string>();
  batch.has_tiles = {name != "zero"};
  if (name != "zero") batch.tiles = tiles.tensor(name).unsqueeze(0);
  return batch;
}

// Leading tokens whose choice the rounding of the compute dtype cannot turn.
size_t reliable_prefix(const Json& entry, at::ScalarType dtype) {
  const auto reliable = entry.at("reliable_prefix").get<size_t>();
  if (dtype == at::kFloat) return reliable;
  const auto margins = entry.at("margin").get<std::vector<double>>();
  const double needed = 2 * limits_of(dtype).logits_absolute;
  const auto first = std::find_if(margins.begin(), margins.end(), [&](double margin) { return margin < needed; });
  return std::min(reliable, static_cast<size_t>(first - margins.begin()));
}

}  // namespace

void check_generation(const ModelCase& model_case, const FusionModel& model, VerifyReport& report) {
  const Json entries = read_json(model_case.folder / "generate.json");
  const SafetensorsFile tiles(model_case.folder / "generate.safetensors");
  for (const Json& entry : entries) {
    const auto where = fmt::format("{} generate {}", model_case.name(), entry.at("name").get<std::string>());
    Positions positions;
    Probe probe;
    probe.value = [](const std::string&, const at::Tensor&) {};
    probe.layout = [&](const TowerLayout&, const AssemblyLayout& layout) {
      positions = {layout.question_rows[0], layout.latent_rows[0], layout.rows.total()};
    };
    const auto expected = integers(entry.at("output_ids_without_eos"));
    const size_t reliable = reliable_prefix(entry, model_case.dtype);
    KvCache cache;
    auto logits = model.prefill(prompt_batch(entry, tiles), {.query_len = entry.at("query_len").get<int64_t>(), .probe = &probe},
                                static_cast<int64_t>(expected.size()), cache);
    const auto prefill_len = entry.at("prefill_len").get<int64_t>();
    report.check(where, "prefill_len", static_cast<double>(positions.length), static_cast<double>(prefill_len),
                 static_cast<double>(std::abs(positions.length - prefill_len)), 0);
    report.check(where, "instruct_pos", 0, 0, positions.questions == integers(entry.at("instruct_pos")) ? 0 : 1, 0);
    report.check(where, "vision_pos", 0, 0, positions.latents == integers(entry.at("vision_pos")) ? 0 : 1, 0);

    double wrong = 0;
    std::string note;
    for (size_t i = 0; i < std::min(reliable, expected.size()); ++i) {
      const auto id = logits.argmax(1).item<int64_t>();
      if (id != expected[i]) {
        if (wrong == 0) note = fmt::format("token {}: {} instead of {}", i, id, expected[i]);
        ++wrong;
      }
      if (i + 1 < expected.size()) logits = model.decode({expected[i]}, cache);
    }
    report.check(where, fmt::format("greedy ids ({} of {} reliable)", reliable, expected.size()), 0, 0, wrong, 0, note);
  }
}

}  // namespace fusion
