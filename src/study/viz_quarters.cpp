#include "fusion/study/viz.h"

#include "fusion/base/error.h"
#include "fusion/base/log.h"
#include "fusion/base/progress.h"
#include "fusion/infer/evaluate.h"  // question_answers

#include <array>
#include <cmath>
#include <map>
#include <numeric>

namespace fusion {
namespace {

/// A quarter as a question names it.
struct Quarter {
  int64_t word = 0;  // place of the first of its two words
  bool bottom = false, right = false;
};

std::string lower(std::string text) {
  for (char& letter : text)
    if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
  return text;
}

/// The only quarter that a question names.
std::optional<Quarter> named_quarter(const std::string& question) {
  std::vector<std::string> words;
  for (const auto& [begin, end] : words_of(question))
    words.push_back(lower(question.substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin))));
  std::optional<Quarter> found;
  for (size_t i = 0; i + 1 < words.size(); ++i) {
    const bool top = words[i] == "top" || words[i] == "upper", bottom = words[i] == "bottom" || words[i] == "lower";
    if ((!top && !bottom) || (words[i + 1] != "left" && words[i + 1] != "right")) continue;
    if (found) return std::nullopt;
    found = {static_cast<int64_t>(i), bottom, words[i + 1] == "right"};
  }
  return found;
}

/// The question about another quarter.
std::string renamed(const std::string& question, const Quarter& from, bool bottom, bool right) {
  const auto words = words_of(question);
  const auto [row_begin, row_end] = words[static_cast<size_t>(from.word)];
  const auto [column_begin, column_end] = words[static_cast<size_t>(from.word) + 1];
  const std::string row = lower(question.substr(static_cast<size_t>(row_begin), static_cast<size_t>(row_end - row_begin)));
  const bool upper_lower = row == "upper" || row == "lower";
  return question.substr(0, static_cast<size_t>(row_begin)) + (upper_lower ? (bottom ? "lower" : "upper") : (bottom ? "bottom" : "top")) +
         question.substr(static_cast<size_t>(row_end), static_cast<size_t>(column_begin - row_end)) + (right ? "right" : "left") +
         question.substr(static_cast<size_t>(column_end));
}

/// Part of the heat of `cells` [side * side] that lies on a quarter of the picture.
double share_of(const VizMaps& maps, const at::Tensor& cells, const Quarter& quarter) {
  const double width = maps.cover / static_cast<double>(maps.side);
  const auto inside = [&](int64_t cell, bool second) {  // part of the cell in that half
    const double first = std::clamp((0.5 - static_cast<double>(cell) * width) / width, 0.0, 1.0);
    return second ? 1.0 - first : first;
  };
  const at::Tensor flat = cells.contiguous();
  const float* heat = flat.const_data_ptr<float>();
  double on = 0, all = 0;
  for (int64_t y = 0; y < maps.side; ++y)
    for (int64_t x = 0; x < maps.side; ++x) {
      const double value = heat[y * maps.side + x];
      on += value * inside(y, quarter.bottom) * inside(x, quarter.right);
      all += value;
    }
  return all > 0 ? on / all : 0.25;
}

/// The shares of one question: (kind, subject, layers) in a fixed order.
using Shares = std::vector<std::pair<std::array<std::string, 3>, double>>;

Shares shares_of(const Viz& viz, int64_t quarter_word, const Quarter& quarter) {
  Shares out;
  std::vector<int64_t> all(viz.words.size());
  std::iota(all.begin(), all.end(), 0);
  for (const VizMaps& maps : viz.kinds) {
    if (maps.scale != HeatScale::from_zero) continue;
    const auto add = [&](const std::string& subject, const std::vector<int64_t>& words) {
      const at::Tensor values = mean_over(maps, words);
      if (!values.defined()) return;
      for (const VizMaps::Mean& mean : maps.means)
        out.push_back({{maps.kind, subject, mean.name}, share_of(maps, values.slice(0, mean.first, mean.last).mean(0), quarter)});
      for (int64_t layer = 0; layer < values.size(0); ++layer)
        out.push_back({{maps.kind, subject, std::to_string(layer)}, share_of(maps, values[layer], quarter)});
    };
    if (maps.words.empty()) {
      add("answer", {});
    } else {
      add("place", {quarter_word, quarter_word + 1});
      add("question", all);
    }
  }
  return out;
}

struct Tally {
  std::vector<double> shares, controls;
};

std::pair<double, double> mean_and_error(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return {mean, n > 1 ? std::sqrt(squares / (n - 1) / n) : 0.0};
}

}  // namespace

std::vector<QuarterShare> measure_quarters(const LoadedModel& model, const Mixture& data, int64_t query_len, int64_t samples) {
  const SampleOptions options = inference_samples(model.config.model, model.config.max_length, query_len);
  std::vector<std::array<std::string, 3>> order;
  std::map<std::array<std::string, 3>, Tally> tallies;
  const int64_t count = samples > 0 ? std::min(samples, data.size()) : data.size();
  Progress progress("viz", "samples", count);
  for (int64_t i = 0; i < count; ++i) {
    progress.update(i);
    const Sample sample = data.sample(i);
    if (sample.image.empty()) continue;
    std::vector<uint8_t> tiles;
    for (const QuestionAnswer& pair : question_answers(sample)) {
      const auto quarter = named_quarter(pair.question);
      if (!quarter) continue;
      if (tiles.empty()) tiles = load_tiles(sample, options);
      Shares control;
      for (const bool bottom : {false, true})
        for (const bool right : {false, true}) {
          const bool asked = bottom == quarter->bottom && right == quarter->right;
          const Shares shares = shares_of(look(model, asked ? pair.question : renamed(pair.question, *quarter, bottom, right), tiles, query_len),
                                          quarter->word, *quarter);
          if (order.empty())
            for (const auto& [key, share] : shares) order.push_back(key);
          if (asked) {
            for (const auto& [key, share] : shares) tallies[key].shares.push_back(share);
            continue;
          }
          if (control.empty())
            control = shares;
          else
            for (size_t k = 0; k < shares.size(); ++k) control[k].second += shares[k].second;
        }
      for (const auto& [key, sum] : control) tallies[key].controls.push_back(sum / 3);
    }
  }
  if (order.empty()) fail(ExitCode::data, "viz: none of the {} samples asks about a quarter of its picture (\"top left\", \"lower right\")", count);

  std::vector<QuarterShare> out;
  for (const auto& key : order) {
    const Tally& tally = tallies[key];
    std::vector<double> gains;
    for (size_t i = 0; i < tally.shares.size(); ++i) gains.push_back(tally.shares[i] - tally.controls[i]);
    QuarterShare row{.kind = key[0], .subject = key[1], .layers = key[2], .count = std::ssize(tally.shares)};
    std::tie(row.share, row.share_error) = mean_and_error(tally.shares);
    row.control = mean_and_error(tally.controls).first;
    row.gain_error = mean_and_error(gains).second;
    out.push_back(row);
  }
  return out;
}

}  // namespace fusion
