#include "fusion/study/viz.h"

#include "fusion/base/error.h"

#include <cstdlib>
#include <numeric>
#include <set>

namespace fusion {
namespace {

/// Words whose maps are drawn, under a name that begins their files.
struct Subject {
  std::string title, file;
  std::vector<int64_t> words;
};

std::vector<Subject> subjects_of(const Viz& viz, const std::vector<std::string>& phrases) {
  if (phrases.empty()) {
    std::vector<int64_t> all(viz.words.size());
    std::iota(all.begin(), all.end(), 0);
    return {{"all words", "", all}};
  }
  std::vector<Subject> out;
  std::set<std::string> files;
  for (const std::string& phrase : phrases) {
    std::string file = phrase.substr(0, 40);
    for (char& letter : file)
      if (!std::isalnum(static_cast<unsigned char>(letter))) letter = '_';
    FUSION_CHECK(files.insert(file).second, "viz: the pictures of two words would have the same names: '{}'; ask for one of them at a time", phrase);
    out.push_back({"'" + phrase + "'", file + "-", find_words(viz, phrase)});
  }
  return out;
}

HeatMap heat(const VizMaps& maps, const std::string& title, const at::Tensor& cells) {
  const at::Tensor flat = cells.contiguous();
  const float* begin = flat.const_data_ptr<float>();
  return {title, maps.side, std::vector<float>(begin, begin + flat.numel()), maps.scale, maps.cover};
}

void draw_kind(const fs::path& folder, const VizMaps& maps, const Subject& subject, const Image& picture) {
  const at::Tensor values = mean_over(maps, subject.words);  // [layers, cells]
  if (!values.defined()) return;
  const std::string title = maps.words.empty() ? maps.title : maps.title + ", " + subject.title;
  const auto put = [&](const std::string& name, const HeatMap& map) {
    write_file(folder / (subject.file + name + ".png"), encode_png(draw_heat_map(picture, map)), Sync::no);
  };
  if (maps.means.empty()) return put("map", heat(maps, title, values[0]));
  std::vector<HeatMap> sheet;
  for (const VizMaps::Mean& mean : maps.means) {
    const auto cells = values.slice(0, mean.first, mean.last).mean(0);
    sheet.push_back(heat(maps, mean.name, cells));
    put(mean.name, heat(maps, fmt::format("{}, mean of layers {} to {}", title, mean.first, mean.last - 1), cells));
  }
  for (int64_t layer = 0; layer < values.size(0); ++layer) {
    sheet.push_back(heat(maps, fmt::format("layer {}", layer), values[layer]));
    put(fmt::format("layer-{:02}", layer), heat(maps, fmt::format("{}, layer {}", title, layer), values[layer]));
  }
  write_file(folder / (subject.file + "sheet.png"), encode_png(draw_heat_sheet(picture, title, sheet)), Sync::no);
}

/// Six digits are all that a heat map can show.
Json numbers(const at::Tensor& tensor) {
  Json out = Json::array();
  if (tensor.dim() > 0) {
    for (int64_t i = 0; i < tensor.size(0); ++i) out.push_back(numbers(tensor[i]));
    return out;
  }
  return std::strtod(fmt::format("{:.6g}", tensor.item<double>()).c_str(), nullptr);
}

Json values_json(const Viz& viz, Json facts) {
  facts["question"] = viz.question;
  for (const VizWord& word : viz.words) facts["words"].push_back({{"text", word.text}, {"tower_rows", word.tower}, {"decoder_rows", word.decoder}});
  for (const VizMaps& maps : viz.kinds) {
    Json kind = {{"kind", maps.kind}, {"title", maps.title}, {"words", maps.words},
                 {"side", maps.side}, {"cover", maps.cover}, {"values", numbers(maps.values)}};
    for (const VizMaps::Mean& mean : maps.means)
      kind["means"][mean.name] = {{"layers", {mean.first, mean.last}}, {"values", numbers(maps.values.slice(0, mean.first, mean.last).mean(0))}};
    facts["maps"].push_back(std::move(kind));
  }
  return facts;
}

}  // namespace

void write_viz(const fs::path& folder, const Viz& viz, const Image& picture, const std::vector<std::string>& phrases, Json facts) {
  const std::vector<Subject> subjects = subjects_of(viz, phrases);
  for (const VizMaps& maps : viz.kinds) {
    make_directories(folder / maps.kind);
    if (maps.words.empty())
      draw_kind(folder / maps.kind, maps, {}, picture);
    else
      for (const Subject& subject : subjects) draw_kind(folder / maps.kind, maps, subject, picture);
  }
  write_file(folder / "values.json", dump_json(values_json(viz, std::move(facts)), -1) + "\n", Sync::no);
}

}  // namespace fusion
