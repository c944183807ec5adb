#include "fusion/data/synth.h"

#include "fusion/base/json.h"
#include "fusion/base/random.h"
#include "fusion/base/thread_pool.h"
#include "fusion/data/annotation.h"
#include "fusion/data/train_tokenizer.h"
#include "fusion/image/image.h"
#include "fusion/text/unicode.h"  // strip, replace_all

#include <opencv2/imgproc.hpp>

#include <algorithm>
#include <array>
#include <optional>
#include <thread>

namespace fusion {
namespace {

constexpr std::array kShapes = {"circle", "square", "triangle"};
constexpr std::array kColors = {"red", "green", "blue", "yellow"};
constexpr std::array kPaint = {std::array{215, 40, 40}, std::array{40, 160, 60}, std::array{45, 70, 215}, std::array{225, 190, 30}};  // RGB
constexpr std::array kWords = {"cat", "dog", "sun", "map", "hat", "box"};
constexpr std::array kCorners = {"top left", "top right", "bottom left", "bottom right"};
constexpr std::array kNumbers = {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight"};

/// What lies in one corner of a picture.
struct Thing {
  enum class Kind { nothing, shape, word } kind = Kind::nothing;
  size_t shape = 0, color = 0, word = 0;
};

/// Two to four corners are filled; at most one of them with a word.
struct Scene {
  std::array<Thing, 4> corners;

  int count(std::optional<size_t> shape, std::optional<size_t> color) const {
    return static_cast<int>(std::count_if(corners.begin(), corners.end(), [&](const Thing& thing) {
      return thing.kind == Thing::Kind::shape && (!shape || thing.shape == *shape) && (!color || thing.color == *color);
    }));
  }
};

struct Question {
  std::string text, answer;
};

std::string name(const Thing& thing) {
  switch (thing.kind) {
    case Thing::Kind::nothing:
      return "nothing";
    case Thing::Kind::shape:
      return fmt::format("{} {}", kColors[thing.color], kShapes[thing.shape]);
    case Thing::Kind::word:
      return fmt::format("the word {}", kWords[thing.word]);
  }
  return "";
}

Scene draw_scene(RandomStream& draw) {
  Scene scene;
  std::array<size_t, 4> order = {0, 1, 2, 3};
  draw.shuffle(std::span<size_t>(order));
  const uint64_t filled = 2 + draw.below(3);
  const bool word = draw.below(2) == 0;
  for (uint64_t i = 0; i < filled; ++i) {
    Thing& thing = scene.corners[order[i]];
    thing = {.kind = Thing::Kind::shape, .shape = draw.below(kShapes.size()), .color = draw.below(kColors.size())};
    if (word && i == 0) thing = {.kind = Thing::Kind::word, .word = draw.below(kWords.size())};
  }
  return scene;
}

void paint(cv::Mat& canvas, const Thing& thing, int corner, RandomStream& draw) {
  const int half = canvas.cols / 2;
  const cv::Point origin(corner % 2 * half, corner / 2 * half);
  auto jitter = [&](int most) { return static_cast<int>(draw.below(static_cast<uint64_t>(2 * most + 1))) - most; };
  const auto& paint_of = kPaint[thing.color];
  const cv::Scalar color(paint_of[0] + jitter(25), paint_of[1] + jitter(25), paint_of[2] + jitter(25));
  if (thing.kind == Thing::Kind::word) {
    const std::string text = kWords[thing.word];
    const double scale = half / 55.0;
    const cv::Size size = cv::getTextSize(text, cv::FONT_HERSHEY_DUPLEX, scale, 1, nullptr);
    const cv::Point at = origin + cv::Point((half - size.width) / 2 + jitter(2), (half + size.height) / 2 + jitter(half / 8));
    cv::putText(canvas, text, at, cv::FONT_HERSHEY_DUPLEX, scale, cv::Scalar::all(30 + jitter(25)), 1, cv::LINE_AA);
    return;
  }
  const int radius = half * 7 / 24 + static_cast<int>(draw.below(static_cast<uint64_t>(half / 8)));
  const int room = half / 2 - radius - 2;
  const cv::Point center = origin + cv::Point(half / 2 + jitter(room), half / 2 + jitter(room));
  if (thing.shape == 0) {
    cv::circle(canvas, center, radius, color, cv::FILLED, cv::LINE_AA);
  } else if (thing.shape == 1) {
    const int side = radius * 9 / 10;
    cv::rectangle(canvas, center - cv::Point(side, side), center + cv::Point(side, side), color, cv::FILLED, cv::LINE_AA);
  } else {
    const std::vector<cv::Point> points = {center + cv::Point(0, -radius), center + cv::Point(radius, radius * 9 / 10),
                                           center + cv::Point(-radius, radius * 9 / 10)};
    cv::fillConvexPoly(canvas, points, color, cv::LINE_AA);
  }
}

Image draw_picture(const Scene& scene, int side, RandomStream& draw) {
  Image image{.width = side, .height = side, .rgb = std::vector<uint8_t>(static_cast<size_t>(side) * side * 3)};
  cv::Mat canvas(side, side, CV_8UC3, image.rgb.data());  // channels in our order, RGB
  const auto light = static_cast<int>(200 + draw.below(46));
  for (uint8_t& value : image.rgb) value = static_cast<uint8_t>(light + static_cast<int>(draw.below(9)) - 4);
  for (int corner = 0; corner < 4; ++corner)
    if (scene.corners[corner].kind != Thing::Kind::nothing) paint(canvas, scene.corners[corner], corner, draw);
  return image;
}

std::string caption(const Scene& scene) {
  std::string text;
  for (size_t corner = 0; corner < 4; ++corner)
    if (scene.corners[corner].kind != Thing::Kind::nothing)
      text += fmt::format("{}{} at the {}", text.empty() ? "" : ", ", name(scene.corners[corner]), kCorners[corner]);
  return text + ".";
}

/// A question of kind `kind`; empty where the scene has no clear answer to it.
std::optional<Question> ask(const Scene& scene, uint64_t kind, RandomStream& draw) {
  const size_t corner = draw.below(4), shape = draw.below(kShapes.size()), color = draw.below(kColors.size());
  switch (kind) {
    case 0:
      return Question{fmt::format("What is at the {}?", kCorners[corner]), name(scene.corners[corner])};
    case 1:
      for (const Thing& thing : scene.corners)
        if (scene.count(shape, {}) == 1 && thing.kind == Thing::Kind::shape && thing.shape == shape)
          return Question{fmt::format("What color is the {}?", kShapes[shape]), kColors[thing.color]};
      return std::nullopt;
    case 2:
      for (const Thing& thing : scene.corners)
        if (scene.count({}, color) == 1 && thing.kind == Thing::Kind::shape && thing.color == color)
          return Question{fmt::format("Which shape is {}?", kColors[color]), kShapes[thing.shape]};
      return std::nullopt;
    case 3:
      return Question{"How many shapes are there?", kNumbers[static_cast<size_t>(scene.count({}, {}))]};
    case 4:
      return Question{fmt::format("How many {}s are there?", kShapes[shape]), kNumbers[static_cast<size_t>(scene.count(shape, {}))]};
    case 5: {
      const Thing& thing = scene.corners[corner];
      if (thing.kind != Thing::Kind::shape || scene.count(thing.shape, thing.color) != 1) return std::nullopt;
      return Question{fmt::format("Where is the {}?", name(thing)), kCorners[corner]};
    }
    case 6:
      for (const Thing& thing : scene.corners)
        if (thing.kind == Thing::Kind::word) return Question{"Which word is printed?", kWords[thing.word]};
      return std::nullopt;
    default: {
      const Thing& thing = scene.corners[corner];  // asks about what is there about as often as about what is not
      if (thing.kind == Thing::Kind::shape) return Question{fmt::format("Is there a {}?", name(thing)), "yes"};
      return Question{fmt::format("Is there a {} {}?", kColors[color], kShapes[shape]), scene.count(shape, color) > 0 ? "yes" : "no"};
    }
  }
}

/// `count` questions about one scene, of different kinds.
std::vector<Question> ask_some(const Scene& scene, uint64_t count, RandomStream& draw) {
  std::array<uint64_t, 8> kinds = {0, 1, 2, 3, 4, 5, 6, 7};
  draw.shuffle(std::span<uint64_t>(kinds));
  std::vector<Question> questions;
  for (size_t i = 0; questions.size() < count; i = (i + 1) % kinds.size()) {
    auto question = ask(scene, kinds[i], draw);
    const bool known =
        question && std::any_of(questions.begin(), questions.end(), [&](const Question& other) { return other.text == question->text; });
    if (question && !known) questions.push_back(std::move(*question));
  }
  return questions;
}

std::vector<Question> add_numbers(RandomStream& draw) {
  const size_t a = draw.below(5), b = draw.below(5);
  return {{fmt::format("What is {} plus {}?", kNumbers[a], kNumbers[b]), kNumbers[a + b]}};
}

struct FilePlan {
  std::string name;
  int64_t rows;
  uint64_t most_questions;  // 0 = a caption
  int64_t text_only_every;  // 0 = never
};

/// One row and its picture: a function of seed, file and row.
Json make_row(const fs::path& folder, const FilePlan& plan, const SynthOptions& options, uint64_t stream, int64_t row) {
  RandomStream draw({static_cast<uint64_t>(options.seed), stream, static_cast<uint64_t>(row)});
  const std::string id = fmt::format("{}-{:05}", plan.name, row);
  const bool text_only = plan.text_only_every > 0 && row % plan.text_only_every == plan.text_only_every - 1;
  const Scene scene = draw_scene(draw);
  std::vector<Question> questions = {{"Describe the image.", caption(scene)}};
  if (plan.most_questions > 0) questions = text_only ? add_numbers(draw) : ask_some(scene, 1 + draw.below(plan.most_questions), draw);

  Json json = {{"id", id}};
  if (!text_only) {
    json["image"] = fmt::format("images/{}.jpg", id);
    write_file(folder / json["image"].get<std::string>(), encode_jpeg(draw_picture(scene, static_cast<int>(options.side), draw)), Sync::no);
  }
  Json& turns = json["conversations"] = Json::array();
  for (const Question& question : questions) {
    turns.push_back({{"from", "human"}, {"value", (turns.empty() && !text_only ? "<image>\n" : "") + question.text}});
    turns.push_back({{"from", "gpt"}, {"value", question.answer}});
  }
  return json;
}

/// Question and answer pairs of a file.
std::vector<Question> read_questions(const fs::path& path) {
  std::vector<Question> out;
  const AnnotationFile file(path);
  for (int64_t i = 0; i < file.size(); ++i) {
    try {
      const Sample sample = file.sample(i);
      for (size_t t = 0; t + 1 < sample.turns.size(); ++t) {
        if (sample.turns[t].from != "human") continue;
        const std::string question = replace_all(sample.turns[t].value, "<image>", "");
        out.push_back({std::string(strip(question)), std::string(strip(sample.turns[t + 1].value))});
      }
    } catch (const BadSample&) {
    }
  }
  return out;
}

}  // namespace

void write_synth(const fs::path& folder, const SynthOptions& options) {
  FUSION_CHECK(options.side >= 48, "data: pictures of side {} are too small for printed words; the least is 48", options.side);
  FUSION_CHECK(std::min({options.stage1, options.stage15, options.stage2, options.held_out}) > 0, "data: every file needs at least one row");
  make_directories(folder / "images");
  const std::vector<FilePlan> plans = {{"stage1", options.stage1, 0, 0},
                                       {"stage15", options.stage15, 1, 0},
                                       {"stage2", options.stage2, 4, options.text_only_every},
                                       {"val", options.held_out, 1, 0}};
  std::vector<fs::path> files;
  for (size_t i = 0; i < plans.size(); ++i) {
    std::vector<std::string> rows(static_cast<size_t>(plans[i].rows));
    parallel_for(plans[i].rows, std::thread::hardware_concurrency(), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) rows[static_cast<size_t>(row)] = dump_json(make_row(folder, plans[i], options, i, row), -1);
    });
    files.push_back(folder / (plans[i].name + ".json"));
    write_file(files.back(), fmt::format("[\n{}\n]\n", fmt::join(rows, ",\n")));
  }
  const fs::path held_out = files.back();
  files.pop_back();
  train_tokenizer(files, options.vocabulary, folder / "tokenizer");
  const Baseline baseline = commonest_answers(files, held_out);
  write_file(folder / "baseline.json",
             dump_json({{"exact_match", baseline.exact_match}, {"answers", baseline.answers}, {"commonest", Json(baseline.commonest)}}));
}

Baseline commonest_answers(const std::vector<fs::path>& train, const fs::path& held_out) {
  std::map<std::string, std::map<std::string, int64_t>> counts;
  for (const fs::path& path : train)
    for (const Question& pair : read_questions(path)) ++counts[pair.text][pair.answer];
  Baseline out;
  int64_t right = 0;
  for (const Question& pair : read_questions(held_out)) {
    ++out.answers;
    const auto seen = counts.find(pair.text);
    if (seen == counts.end()) continue;
    const auto best = std::max_element(seen->second.begin(), seen->second.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    out.commonest[pair.text] = best->first;
    right += best->first == pair.answer;
  }
  if (out.answers > 0) out.exact_match = static_cast<double>(right) / static_cast<double>(out.answers);
  return out;
}

}  // namespace fusion
