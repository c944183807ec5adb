#include "fusion/study/snapshots.h"

#include "fusion/base/error.h"
#include "fusion/infer/evaluate.h"
#include "fusion/study/viz.h"
#include "fusion/train/run_folder.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <numeric>
#include <set>

namespace fusion {
namespace {

const std::set<std::string> kShown = {"pixel-words-to-patches", "space-text", "question-to-image", "answer-to-image"};

std::vector<HeatMap> means_of(const Viz& viz) {
  std::vector<int64_t> words(viz.words.size());
  std::iota(words.begin(), words.end(), 0);
  std::vector<HeatMap> maps;
  for (const VizMaps& kind : viz.kinds) {
    const at::Tensor values = kShown.contains(kind.kind) ? mean_over(kind, words) : at::Tensor();  // [layers, cells]
    if (!values.defined()) continue;
    const auto add = [&](const std::string& title, const at::Tensor& cells) {
      const at::Tensor flat = cells.contiguous();
      const float* begin = flat.const_data_ptr<float>();
      maps.push_back({title, kind.side, std::vector<float>(begin, begin + flat.numel()), kind.scale, kind.cover});
    };
    if (kind.means.empty()) add(kind.kind, values[0]);
    for (const VizMaps::Mean& mean : kind.means) add(kind.kind + ", " + mean.name, values.slice(0, mean.first, mean.last).mean(0));
  }
  return maps;
}

}  // namespace

void draw_snapshots(const LoadedModel& model, const Mixture& held_out, int64_t samples, const fs::path& folder) {
  const int64_t query_len = inference_query_len(model.config.model.card);
  const SampleOptions options = inference_samples(model.config.model, model.config.max_length, query_len);
  make_directories(folder);
  int64_t drawn = 0;
  for (int64_t i = 0; i < held_out.size() && drawn < samples; ++i) {
    try {
      const Sample sample = held_out.sample(i);
      const auto pairs = question_answers(sample);
      if (sample.image.empty() || pairs.empty()) continue;
      const Viz viz = look(model, pairs[0].question, load_tiles(sample, options), query_len);
      write_file(folder / fmt::format("sample-{:02}.png", drawn),
                 encode_png(draw_heat_sheet(decode_image(open_picture(sample).bytes), viz.question, means_of(viz))), Sync::no);
      ++drawn;
    } catch (const BadSample&) {  // the evaluation has named it
    }
  }
}

std::vector<FilmStrip> film_strips(const fs::path& stage) {
  std::map<std::string, std::map<int64_t, fs::path>> found;
  const fs::path folder = StageFolder{stage}.snapshots();
  if (!fs::is_directory(folder)) return {};
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    int64_t step = 0;
    if (!name.starts_with("step-") || std::from_chars(name.data() + 5, name.data() + name.size(), step).ec != std::errc()) continue;
    for (const auto& sheet : fs::directory_iterator(entry.path()))
      if (sheet.path().extension() == ".png") found[sheet.path().stem().string()][step] = sheet.path();
  }
  std::vector<FilmStrip> strips;
  for (const auto& [sample, sheets] : found) strips.push_back({sample, {sheets.begin(), sheets.end()}});
  return strips;
}

}  // namespace fusion
