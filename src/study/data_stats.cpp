#include "fusion/study/data_stats.h"

#include "fusion/base/progress.h"
#include "fusion/base/random.h"
#include "fusion/base/thread_pool.h"
#include "fusion/data/order.h"

#include <opencv2/imgproc.hpp>

#include <algorithm>
#include <atomic>
#include <numeric>

namespace fusion {
namespace {

constexpr uint64_t kSampleStream = 0x73746174, kOrderStream = 0x73746F72;  // keys of our draws

struct Figures {
  int64_t rows = 0, questions = 0, side = 0;  // rows 0: unusable; side 0: no picture
  int32_t words = 0;
};

/// Decoder rows of an encoded sample: its first placeholder is the picture, where it has one, the others are latents.
int64_t rows_of(const EncodedConversation& text, bool picture, const SampleOptions& options) {
  const auto tokens = static_cast<int64_t>(text.input_ids.size());
  const int64_t marks = std::count_if(text.input_ids.begin(), text.input_ids.end(), [](int64_t id) { return id < 0; });
  const int64_t pictures = picture && marks > 0 ? 1 : 0, latents = options.latents ? options.latent_rows : 0;
  return std::min(tokens - marks + pictures * options.image_rows + (marks - pictures) * latents, options.max_length);
}

Figures look(const Mixture& mixture, int64_t index, const ConversationEncoder& encoder, const SampleOptions& options) {
  Figures out;
  out.words = static_cast<int32_t>(mixture.modality_length(index));
  try {
    const Sample sample = mixture.sample(index);
    const EncodedConversation text = encode_sample(sample, encoder, options).text;
    if (!sample.image.empty()) {
      const StoredPicture picture = open_picture(sample);
      const auto [width, height] = image_size(picture.bytes);
      out.side = std::max(width, height);
    }
    out.questions = static_cast<int64_t>(text.turn_ends.size());
    out.rows = rows_of(text, out.side > 0, options);
  } catch (const BadSample&) {
  } catch (const Error& error) {  // a picture that is missing or broken
    if (error.code() != ExitCode::data && error.code() != ExitCode::io) throw;
  }
  return out;
}

double part(int64_t rows, int64_t places) { return places > 0 ? static_cast<double>(rows) / static_cast<double>(places) : 1.0; }

/// When every micro-batch is filled up to its longest sample.
double padded(const std::vector<uint32_t>& order, const std::vector<Figures>& figures, size_t batch) {
  int64_t rows = 0, places = 0;
  for (size_t at = 0; at < order.size(); at += batch) {
    int64_t longest = 0;
    const size_t end = std::min(at + batch, order.size());
    for (size_t i = at; i < end; ++i) {
      rows += figures[order[i]].rows;
      longest = std::max(longest, figures[order[i]].rows);
    }
    places += longest * static_cast<int64_t>(end - at);
  }
  return part(rows, places);
}

/// When the steps of `order` are packed by estimated sizes: real rows of the packs' room.
double packed(const std::vector<uint32_t>& order, const std::vector<Figures>& figures, const CostModel& cost, Pack pack, const Config& config) {
  int64_t rows = 0, places = 0;
  const auto step = static_cast<size_t>(config.train.global_batch);
  for (size_t at = 0; at < order.size(); at += step) {
    std::vector<SampleCost> costs;
    for (size_t i = at; i < std::min(at + step, order.size()); ++i) {
      costs.push_back(cost(figures[order[i]].words));
      rows += figures[order[i]].rows;
    }
    places += static_cast<int64_t>(deal_step(costs, {.pack = pack, .rows = config.data.pack_rows}).size()) * config.data.pack_rows;
  }
  return part(rows, places);
}

void draw(cv::Mat& canvas, const Histogram& histogram, cv::Rect area) {
  const cv::Scalar ink(40, 40, 40), bar(160, 90, 40);
  const auto write = [&](const std::string& text, int x, int y, double size) {
    cv::putText(canvas, text, {x, y}, cv::FONT_HERSHEY_SIMPLEX, size, ink, 1, cv::LINE_AA);
  };
  write(fmt::format("{}: median {}, 99% {}, most {}", histogram.title, histogram.median, histogram.p99, histogram.most), area.x, area.y + 14, 0.45);
  const int64_t most = std::max<int64_t>(1, *std::max_element(histogram.counts.begin(), histogram.counts.end()));
  const int step = (area.height - 30) / static_cast<int>(histogram.counts.size()), left = area.x + 110, width = area.width - 200;
  for (size_t i = 0; i < histogram.counts.size(); ++i) {
    const int y = area.y + 30 + static_cast<int>(i) * step;
    const int length = static_cast<int>(static_cast<double>(width) * static_cast<double>(histogram.counts[i]) / static_cast<double>(most));
    write(histogram.bin(i), area.x, y + step / 2 + 4, 0.4);
    if (histogram.counts[i] > 0) cv::rectangle(canvas, {left, y + 1}, {left + std::max(1, length), y + step - 2}, bar, cv::FILLED);
    write(std::to_string(histogram.counts[i]), left + length + 6, y + step / 2 + 4, 0.4);
  }
}

}  // namespace

Histogram::Histogram(std::string name, std::string unit_name, std::vector<int64_t> values, std::vector<int64_t> bin_ends)
    : title(std::move(name)), unit(std::move(unit_name)), ends(std::move(bin_ends)), counts(ends.size() + 1, 0) {
  std::sort(values.begin(), values.end());
  for (const int64_t value : values) ++counts[static_cast<size_t>(std::lower_bound(ends.begin(), ends.end(), value) - ends.begin())];
  if (values.empty()) return;
  least = values.front(), median = values[values.size() / 2], p99 = values[values.size() * 99 / 100], most = values.back();
}

std::string Histogram::bin(size_t i) const {
  if (i == ends.size()) return fmt::format("over {}", ends.back());
  const int64_t from = i == 0 ? 0 : ends[i - 1] + 1;
  return from == ends[i] ? std::to_string(from) : fmt::format("{}-{}", from, ends[i]);
}

std::string Histogram::text() const {
  constexpr double kWidth = 50;
  std::string out = fmt::format("{} ({}): least {}, median {}, 99 % {}, most {}\n", title, unit, least, median, p99, most);
  const int64_t longest = std::max<int64_t>(1, *std::max_element(counts.begin(), counts.end()));
  for (size_t i = 0; i < counts.size(); ++i) {
    if (i == ends.size() && counts[i] == 0) continue;
    const auto bar = static_cast<size_t>(kWidth * static_cast<double>(counts[i]) / static_cast<double>(longest));
    out += fmt::format("  {:>12} {:>9} {}\n", bin(i), counts[i], std::string(bar, '#'));
  }
  return out;
}

DataStats data_stats(const Mixture& mixture, const ConversationEncoder& encoder, const SampleOptions& options, const Config& config,
                     const ModelConfig& model, int64_t samples, int threads) {
  const auto seed = static_cast<uint64_t>(config.data.seed);
  std::vector<uint32_t> chosen = random_permutation(static_cast<uint32_t>(mixture.size()), {seed, kSampleStream});
  if (samples > 0 && samples < mixture.size()) chosen.resize(static_cast<size_t>(samples));
  std::vector<Figures> figures(chosen.size());
  Progress progress("looking at", "samples", static_cast<int64_t>(chosen.size()));
  std::atomic<size_t> next = 0;
  parallel_for(threads, threads, [&](int64_t piece, int64_t) {
    for (size_t i; (i = next++) < chosen.size();) {
      figures[i] = look(mixture, chosen[i], encoder, options);
      if (piece == 0) progress.update(static_cast<int64_t>(i));
    }
  });

  DataStats stats;
  stats.samples = static_cast<int64_t>(figures.size());
  stats.unusable = static_cast<int64_t>(std::erase_if(figures, [](const Figures& row) { return row.rows == 0; }));
  std::vector<int64_t> rows, questions, sides;
  std::vector<int32_t> words;
  for (const Figures& row : figures) {
    rows.push_back(row.rows);
    questions.push_back(row.questions);
    words.push_back(row.words);
    if (row.side > 0) sides.push_back(row.side);
  }
  using Ends = std::vector<int64_t>;
  stats.histograms.emplace_back("length", "decoder rows per sample", rows, Ends{64, 128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192});
  stats.histograms.emplace_back("questions", "per sample", questions, Ends{1, 2, 3, 4, 6, 8, 12, 16, 32});
  stats.histograms.emplace_back("picture", "longer side in pixels", sides, Ends{128, 256, 384, 512, 640, 768, 1024, 1536, 2048, 4096});
  if (figures.empty()) return stats;

  const int64_t micro = config.train.micro_batch;
  uint64_t turn = 0;
  const auto permute = [&](uint32_t count) { return random_permutation(count, {seed, kOrderStream, ++turn}); };
  const auto shuffled = permute(static_cast<uint32_t>(figures.size()));
  const auto grouped = grouped_order(words, micro, config.train.global_batch / micro, permute);
  const CostModel cost(model);
  stats.fills = {
      {fmt::format("padded micro-batches of {}, shuffled", micro), padded(shuffled, figures, static_cast<size_t>(micro))},
      {fmt::format("padded micro-batches of {}, data.group=released", micro), padded(grouped, figures, static_cast<size_t>(micro))},
      {fmt::format("data.pack=greedy, data.pack_rows={}", config.data.pack_rows), packed(shuffled, figures, cost, Pack::greedy, config)},
      {fmt::format("data.pack=best_fit, data.pack_rows={}", config.data.pack_rows), packed(shuffled, figures, cost, Pack::best_fit, config)}};
  return stats;
}

std::string stats_text(const DataStats& stats) {
  std::string out = fmt::format("{} samples looked at, {} of them unusable\n", stats.samples, stats.unusable);
  for (const Histogram& histogram : stats.histograms) out += histogram.text();
  out += "part of the places that real rows take (fusion itself pads none):\n";
  for (const DataStats::Fill& fill : stats.fills) out += fmt::format("  {:<52} {:>5.1f} %\n", fill.how, 100 * fill.part);
  return out;
}

Image stats_picture(const DataStats& stats) {
  constexpr int kWidth = 480, kHeight = 330, kEdge = 16;
  const int width = kWidth * static_cast<int>(stats.histograms.size());
  cv::Mat canvas(kHeight, width, CV_8UC3, cv::Scalar(255, 255, 255));
  for (size_t i = 0; i < stats.histograms.size(); ++i)
    draw(canvas, stats.histograms[i], {static_cast<int>(i) * kWidth + kEdge, kEdge, kWidth - 2 * kEdge, kHeight - 2 * kEdge});
  cv::cvtColor(canvas, canvas, cv::COLOR_BGR2RGB);
  return {width, kHeight, {canvas.data, canvas.data + canvas.total() * 3}};
}

}  // namespace fusion
