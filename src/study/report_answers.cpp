#include "fusion/base/error.h"
#include "fusion/base/log.h"
#include "fusion/infer/generate.h"
#include "fusion/study/report.h"

#include <algorithm>

namespace fusion {
namespace {

constexpr int kPictureSide = 128;  // pixels of the longer side in the page
constexpr int64_t kAnswerTokens = 64, kBatch = 16;

std::string small_picture(const Sample& sample) {
  const StoredPicture picture = open_picture(sample);
  const Image image = decode_image(picture.bytes);
  const double shrink = std::min(1.0, static_cast<double>(kPictureSide) / std::max(image.width, image.height));
  const auto side = [&](int length) { return std::max(1, static_cast<int>(length * shrink)); };
  return encode_jpeg(resize_bicubic(image, side(image.width), side(image.height)));
}

}  // namespace

AnswerTable ask_checkpoints(const RunView& run, int64_t samples) {
  const Config* config = nullptr;
  if (run.recipe)
    for (const Stage& stage : run.recipe->stages)
      if (!stage.config.data.eval.empty()) config = &stage.config;
  FUSION_CHECK(config, "report: {} has no data.eval to take questions from; leave --answers out", run.folder.string());
  const Mixture data(config->data.eval, config->data.image_folder, config->data.seed, samples);
  AnswerTable table{.run = run.name, .models = {}, .rows = {}};
  for (const StageView& stage : run.stages)
    for (auto checkpoint = stage.checkpoints.rbegin(); checkpoint != stage.checkpoints.rend(); ++checkpoint) {
      if (!checkpoint->finished) continue;
      const LoadedModel model = load_for_inference(stage.folder / "checkpoints" / checkpoint->name);
      table.models.push_back(fmt::format("{}{}step {}", stage.name, stage.name.empty() ? "" : " ", checkpoint->step));
      log::info("report: {} answers as of {}", samples, table.models.back());
      GenerateOptions options;
      options.max_new_tokens = kAnswerTokens;
      size_t place = 0;
      predict(model, data, options, kBatch, [&](const Prediction& prediction) {
        if (place == table.rows.size()) {
          const Sample sample = data.sample(prediction.position);
          table.rows.push_back({prediction.question, prediction.expected, sample.image.empty() ? "" : small_picture(sample), {}});
        }
        table.rows[place++].answers.push_back(prediction.answer);
      });
    }
  FUSION_CHECK(!table.models.empty(), "report: {} has no finished checkpoint to ask; leave --answers out", run.folder.string());
  return table;
}

}  // namespace fusion
