// Samples to batches: preparing, the loader's threads, the ledger.
#include "fusion/data/loader.h"

#include "errors.h"
#include "fusion/base/json.h"
#include "fusion/base/random.h"
#include "fusion/data/check.h"
#include "fusion/data/ledger.h"
#include "fusion/data/show.h"
#include "fusion/data/train_tokenizer.h"
#include "temp_folder.h"

#include <ATen/ops/equal.h>

#include <set>

namespace fusion {
namespace {

using test::TempFolder;
constexpr int kSide = 8;

Image picture(int width, int height, uint8_t value) { return {width, height, std::vector<uint8_t>(static_cast<size_t>(width) * height * 3, value)}; }

Json sample_row(const std::string& id, const std::string& image, const std::vector<std::string>& texts) {
  Json row = {{"id", id}};
  if (!image.empty()) row["image"] = image;
  row["conversations"] = Json::array();
  for (size_t i = 0; i < texts.size(); ++i) row["conversations"].push_back({{"from", i % 2 ? "gpt" : "human"}, {"value", texts[i]}});
  return row;
}

/// Good rows of all sorts, then one bad row of each kind.
class Data : public testing::Test {
 protected:
  void SetUp() override {
    write_file(folder_ / "a.png", encode_png(picture(20, 10, 200)), Sync::no);
    write_file(folder_ / "b.jpg", encode_jpeg(picture(9, 30, 40)), Sync::no);
    const std::string jpeg = encode_jpeg(picture(64, 64, 90));
    write_file(folder_ / "cut.jpg", jpeg.substr(0, jpeg.size() / 2), Sync::no);
    std::string lines;
    RandomStream draw({4});
    for (int i = 0; i < 40; ++i) {
      std::vector<std::string> texts;
      for (uint64_t t = 1 + draw.below(3); t > 0; --t) {
        texts.push_back("what is the color of shape number " + std::to_string(i));
        texts.push_back(t % 2 ? "red" : "a blue circle");
      }
      const std::string image = i % 3 == 0 ? "" : i % 3 == 1 ? "a.png" : "b.jpg";
      if (!image.empty()) texts[0] = "<image>\n" + texts[0];
      lines += dump_json(sample_row("good-" + std::to_string(i), image, texts), -1) + "\n";
    }
    const std::vector<std::pair<std::string, Json>> bad = {
        {"image", sample_row("missing", "none.png", {"<image>\nq", "a"})},
        {"image", sample_row("broken", "cut.jpg", {"<image>\nq", "a"})},
        {"image", sample_row("folder", ".", {"<image>\nq", "a"})},
        {"roles", Json{{"id", "roles"}, {"conversations", {{{"from", "human"}, {"value", "q"}}, {{"from", "human"}, {"value", "q"}}}}}},
        {"row", Json{{"id", "null"}, {"conversations", {{{"from", "human"}, {"value", nullptr}}}}}},
        {"empty_turn", sample_row("empty", "", {"q", ""})},
    };
    for (const auto& [word, row] : bad) {
      lines += dump_json(row, -1) + "\n";
      expected_.push_back({row["id"], word});
    }
    lines += "{\"id\": \"torn\", \"conv\n";
    expected_.push_back({"data#46", "json"});  // its own id cannot be read
    write_file(folder_ / "data.jsonl", lines, Sync::no);
    train_tokenizer({folder_ / "data.jsonl"}, 1000, folder_ / "tokenizer");
    encoder_ = std::make_shared<ConversationEncoder>(load_tokenizer(folder_ / "tokenizer"), Template::phi_3);
    mixture_ = std::make_shared<Mixture>(folder_ / "data.jsonl", "", 0);
  }

  SampleOptions options() const { return {.max_length = 200, .image_size = kSide}; }

  TempFolder folder_;
  std::vector<std::pair<std::string, std::string>> expected_;  // id, first word of the reason
  std::shared_ptr<ConversationEncoder> encoder_;
  std::shared_ptr<Mixture> mixture_;
};

TEST_F(Data, PreparesTilesAndText) {
  const PreparedSample sample = prepare_sample(mixture_->sample(1), *encoder_, options());
  EXPECT_EQ(sample.tiles, make_tiles(picture(20, 10, 200), kSide));
  EXPECT_EQ(sample.text.images, 1);
  EXPECT_GT(sample.text.supervised, 0);
  const PreparedSample text = prepare_sample(mixture_->sample(0), *encoder_, options());
  EXPECT_TRUE(text.tiles.empty());
  EXPECT_EQ(text.text.instruct, Ids{0});
  auto capped = options();
  capped.max_text_tokens = 3;
  EXPECT_EQ(prepare_sample(mixture_->sample(1), *encoder_, capped).text.instruct.size(), 3u);
}

TEST_F(Data, OverLongSamples) {
  Sample sample;
  sample.id = "long";
  for (int i = 0; i < 3; ++i) {
    sample.turns.push_back({"human", "what is the color of shape number " + std::to_string(i)});
    sample.turns.push_back({"gpt", "a blue circle"});
  }
  const EncodedConversation whole = prepare_sample(sample, *encoder_, options()).text;
  ASSERT_EQ(whole.turn_ends.size(), 3u);
  auto limited = options();
  limited.max_length = whole.turn_ends[1] + 2;

  const EncodedConversation cut = prepare_sample(sample, *encoder_, limited).text;
  EXPECT_EQ(cut.input_ids, Ids(whole.input_ids.begin(), whole.input_ids.begin() + limited.max_length));
  EXPECT_EQ(cut.labels, Ids(whole.labels.begin(), whole.labels.begin() + limited.max_length));
  EXPECT_LT(cut.supervised, whole.supervised);

  limited.over_length = OverLength::turns;
  const EncodedConversation turns = prepare_sample(sample, *encoder_, limited).text;
  EXPECT_EQ(turns.input_ids, Ids(whole.input_ids.begin(), whole.input_ids.begin() + whole.turn_ends[1]));
  limited.max_length = whole.turn_ends[1];
  EXPECT_EQ(prepare_sample(sample, *encoder_, limited).text.input_ids, turns.input_ids);
  limited.max_length = whole.turn_ends[1] - 1;
  EXPECT_EQ(prepare_sample(sample, *encoder_, limited).text.input_ids, Ids(whole.input_ids.begin(), whole.input_ids.begin() + whole.turn_ends[0]));
  limited.max_length = whole.turn_ends[0] - 1;
  EXPECT_FAILS(prepare_sample(sample, *encoder_, limited), ExitCode::data, "over_length: ");

  limited.over_length = OverLength::reject;
  limited.max_length = static_cast<int64_t>(whole.input_ids.size());
  EXPECT_EQ(prepare_sample(sample, *encoder_, limited).text.input_ids, whole.input_ids);
  --limited.max_length;
  EXPECT_FAILS(prepare_sample(sample, *encoder_, limited), ExitCode::data, "over_length: ");

  // Latent rows count: each of the three placeholders takes 16 rows.
  limited.max_length = static_cast<int64_t>(whole.input_ids.size()) + 3 * 15;
  limited.latent_rows = 16;
  EXPECT_EQ(prepare_sample(sample, *encoder_, limited).text.input_ids, whole.input_ids);
  --limited.max_length;
  EXPECT_FAILS(prepare_sample(sample, *encoder_, limited), ExitCode::data, "over_length: ");

  // A cut that leaves nothing to learn, by tokens or by the rows of the picture.
  limited = options();
  limited.max_length = 5;
  EXPECT_FAILS(prepare_sample(sample, *encoder_, limited), ExitCode::data, "no_target: ");
  limited.max_length = 100;
  limited.image_rows = 576;
  EXPECT_FAILS(prepare_sample(mixture_->sample(1), *encoder_, limited), ExitCode::data, "no_target: ");
  EXPECT_NO_THROW(prepare_sample(mixture_->sample(0), *encoder_, limited));  // no picture, no rows of one
}

TEST_F(Data, CheckFindsWhatTrainingWouldReject) {
  for (const int64_t threads : {1, 3}) {
    const DataCheck check = check_data(*mixture_, *encoder_, {options(), true, threads});
    std::vector<std::pair<std::string, std::string>> found;
    for (const BadRow& bad : check.bad) {
      found.emplace_back(bad.id, bad.reason.substr(0, bad.reason.find(':')));
      EXPECT_EQ(bad.row, 40 + static_cast<int64_t>(found.size()) - 1);
    }
    EXPECT_EQ(found, expected_);
    const SourceCheck& source = check.sources.at(0);
    EXPECT_EQ(source.rows, mixture_->size());
    EXPECT_EQ(source.rejected.at("image"), 3);
    EXPECT_EQ(source.duplicates + source.shortened, 0);
  }
  // Without decoding, a picture that is cut off is not seen.
  EXPECT_EQ(check_data(*mixture_, *encoder_, {options(), false, 2}).sources.at(0).rejected.at("image"), 2);

  auto short_rows = options();
  short_rows.max_length = 24;
  int64_t shortened = 0;
  for (int64_t i = 0; i < 40; ++i) shortened += prepare_sample(mixture_->sample(i), *encoder_, options()).text.input_ids.size() > 24;
  const DataCheck check = check_data(*mixture_, *encoder_, {short_rows, false, 1});
  ASSERT_GT(shortened, 0);
  EXPECT_EQ(check.sources.at(0).shortened + check.sources.at(0).rejected.at("no_target"), shortened);
}

TEST_F(Data, CheckCountsDuplicatesAndOtherKeysOnce) {
  Json row = sample_row("x", "", {"q", "a"}), other = sample_row("y", "", {"q", "a"}), different = sample_row("z", "", {"q", "b"});
  row["source"] = "web", different["source"] = 1;
  write_file(folder_ / "twice.jsonl", dump_json(row, -1) + "\n" + dump_json(other, -1) + "\n" + dump_json(different, -1) + "\n", Sync::no);
  write_file(folder_ / "m.yaml",
             "datasets:\n- {json_path: twice.jsonl, repeat: 3}\n- {json_path: twice.jsonl, sampling_strategy: 'end:1', name: last}\n");
  const Mixture mixture(folder_ / "m.yaml", "", 0);
  const DataCheck check = check_data(mixture, *encoder_, {options(), true, 2});
  EXPECT_EQ(check.sources[0].rows, 3);
  EXPECT_EQ(check.sources[0].duplicates, 1);
  EXPECT_EQ(check.sources[0].other_keys, (std::map<std::string, int64_t>{{"source", 2}}));
  EXPECT_EQ(check.sources[1].rows, 1);
  EXPECT_EQ(check.sources[1].duplicates, 1);
}

TEST_F(Data, ShowsWhatIsSupervisedAndWhereQuestionsEnd) {
  const PreparedSample sample = prepare_sample(mixture_->sample(1), *encoder_, options());
  const std::string plain = show_conversation(sample.text, encoder_->tokenizer(), false);
  EXPECT_THAT(plain, testing::HasSubstr("[image]"));
  EXPECT_THAT(plain, testing::HasSubstr("what is the color of shape number 1"));
  const auto count = [](const std::string& text, std::string_view part) {
    size_t found = 0;
    for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++found;
    return found;
  };
  EXPECT_EQ(count(plain, "[?]"), sample.text.turn_ends.size());
  EXPECT_EQ(count(plain, "\u00AB"), sample.text.turn_ends.size());
  EXPECT_EQ(count(show_conversation(sample.text, encoder_->tokenizer(), true), "\x1b[32m"), sample.text.turn_ends.size());

  const Image tiles = show_tiles(sample.tiles, kSide);
  ASSERT_EQ(tiles.width, 5 * kSide);
  for (int t = 0; t < 5; ++t)
    for (int y = 0; y < kSide; ++y)
      for (int x = 0; x < kSide * 3; ++x)
        ASSERT_EQ(tiles.rgb[static_cast<size_t>((y * 5 + t) * kSide * 3 + x)], sample.tiles[static_cast<size_t>((t * kSide + y) * kSide * 3 + x)]);
}

TEST_F(Data, QuarantinedRowsAreLeftOut) {
  const DataCheck check = check_data(*mixture_, *encoder_, {options(), true, 2});
  write_quarantine(folder_ / "bad.jsonl.quarantine", *mixture_, check);
  const auto clean = [&](int64_t most) { return Mixture(folder_ / "data.jsonl", "", 0, most, folder_ / "bad.jsonl.quarantine"); };
  const Mixture mixture = clean(0);
  ASSERT_EQ(mixture.size(), 40);
  EXPECT_EQ(mixture.sources()[0].left_out, static_cast<int64_t>(expected_.size()));
  for (int64_t i = 0; i < mixture.size(); ++i) EXPECT_NO_THROW(prepare_sample(mixture.sample(i), *encoder_, options())) << i;
  EXPECT_NE(mixture.digest(), mixture_->digest());
  EXPECT_EQ(clean(42).size(), 40);  // chosen first, then left out
  EXPECT_EQ(clean(30).digest(), Mixture(folder_ / "data.jsonl", "", 0, 30).digest());

  write_file(folder_ / "data.jsonl", read_file(folder_ / "data.jsonl") + "{}\n", Sync::no);
  EXPECT_FAILS(clean(0), ExitCode::usage, "run `fusion data check` again");
  write_file(folder_ / "bad.jsonl.quarantine", "{\"file\": 3}\n", Sync::no);
  EXPECT_FAILS(clean(0), ExitCode::usage, "bad.jsonl.quarantine:1");
}

TEST_F(Data, BatchesWithoutPadding) {
  std::vector<PreparedSample> samples;
  for (int i = 0; i < 3; ++i) samples.push_back(prepare_sample(mixture_->sample(i), *encoder_, options()));
  samples[2].position = 17;
  const Batch batch = make_batch(samples, kSide);
  EXPECT_EQ(batch.size(), 3);
  EXPECT_EQ(batch.positions, (std::vector<int64_t>{0, 0, 17}));
  EXPECT_EQ(batch.has_tiles, (std::vector<bool>{false, true, true}));
  EXPECT_EQ(batch.tiles.sizes(), (at::IntArrayRef{2, 5, kSide, kSide, 3}));
  EXPECT_EQ(batch.tiles.scalar_type(), at::kByte);
  const auto* bytes = batch.tiles.const_data_ptr<uint8_t>();
  EXPECT_TRUE(std::equal(samples[1].tiles.begin(), samples[1].tiles.end(), bytes));
  EXPECT_TRUE(std::equal(samples[2].tiles.begin(), samples[2].tiles.end(), bytes + samples[1].tiles.size()));
  for (int i = 0; i < 3; ++i) {
    const auto begin = batch.input_ids.begin() + batch.tokens.at[i];
    EXPECT_EQ(Ids(begin, begin + batch.tokens.length(i)), samples[i].text.input_ids);
    const auto labels = batch.labels.begin() + batch.tokens.at[i];
    EXPECT_EQ(Ids(labels, labels + batch.tokens.length(i)), samples[i].text.labels);
    const auto instruct = batch.instruct.begin() + batch.instruct_offsets.at[i];
    EXPECT_EQ(Ids(instruct, instruct + batch.instruct_offsets.length(i)), samples[i].text.instruct);
  }
  const Batch empty = make_batch({}, kSide);
  EXPECT_EQ(empty.size(), 0);
  EXPECT_EQ(empty.tiles.sizes(), (at::IntArrayRef{0, 5, kSide, kSide, 3}));
}

/// Micro-batches of `batch` consecutive places of `order`.
Loader::Plan plan_of(std::vector<uint32_t> order, int64_t batch, int64_t first = 0) {
  return [order = std::move(order), batch, i = first]() mutable -> std::optional<Loader::Micro> {
    Loader::Micro micro;
    for (int64_t p = i * batch; p < std::min<int64_t>((i + 1) * batch, static_cast<int64_t>(order.size())); ++p)
      micro.items.push_back({p, order[static_cast<size_t>(p)]});
    if (micro.items.empty()) return std::nullopt;
    micro.ends_step = ++i % 2 == 0;
    return micro;
  };
}

std::vector<LoadedBatch> load_all(Loader& loader) {
  std::vector<LoadedBatch> out;
  while (auto batch = loader.next()) out.push_back(std::move(*batch));
  return out;
}

TEST_F(Data, EverySampleComesOnceOrIsRejectedWithAReason) {
  const auto order = epoch_order(*mixture_, {.group = Grouping::released, .seed = 1, .batch = 4, .chunks = 2}, 0);
  std::vector<std::vector<LoadedBatch>> runs;
  for (const auto& [workers, prefetch] : std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {4, 3}, {3, 100}}) {
    Loader loader(mixture_, encoder_, {options(), workers, prefetch}, plan_of(order, 4));
    runs.push_back(load_all(loader));
  }
  std::map<int64_t, std::string> seen;  // position -> id
  std::map<std::string, std::string> rejected;
  for (const LoadedBatch& loaded : runs[0]) {
    for (int64_t i = 0; i < loaded.batch.size(); ++i) EXPECT_TRUE(seen.emplace(loaded.batch.positions[i], loaded.batch.ids[i]).second);
    for (const Rejection& bad : loaded.rejected) {
      EXPECT_TRUE(seen.emplace(bad.position, bad.id).second);
      rejected[bad.id] = bad.reason.substr(0, bad.reason.find(':'));
      EXPECT_EQ(bad.dataset, "data");
      EXPECT_THAT(bad.where, testing::HasSubstr("data.jsonl:"));
    }
  }
  EXPECT_EQ(seen.size(), static_cast<size_t>(mixture_->size()));
  EXPECT_EQ(rejected, (std::map<std::string, std::string>(expected_.begin(), expected_.end())));

  for (const auto& run : runs) {
    ASSERT_EQ(run.size(), runs[0].size());
    for (size_t i = 0; i < run.size(); ++i) {
      EXPECT_EQ(run[i].ends_step, i % 2 == 1);
      EXPECT_EQ(run[i].batch.ids, runs[0][i].batch.ids);
      EXPECT_EQ(run[i].batch.input_ids, runs[0][i].batch.input_ids);
      EXPECT_TRUE(at::equal(run[i].batch.tiles, runs[0][i].batch.tiles));
      ASSERT_EQ(run[i].rejected.size(), runs[0][i].rejected.size());
    }
  }
  // Starting in the middle gives the same batches: what a resume does.
  Loader later(mixture_, encoder_, {options(), 2, 2}, plan_of(order, 4, 5));
  const auto rest = load_all(later);
  ASSERT_EQ(rest.size() + 5, runs[0].size());
  for (size_t i = 0; i < rest.size(); ++i) EXPECT_EQ(rest[i].batch.ids, runs[0][i + 5].batch.ids);
}

TEST_F(Data, LoaderPassesOnErrorsThatAreNoSamplesAndStopsEarly) {
  auto plan = [i = int64_t{0}]() mutable -> std::optional<Loader::Micro> {
    const int64_t place = i++;
    return Loader::Micro{{{place, place == 2 ? 10000 : place}}};
  };
  Loader loader(mixture_, encoder_, {options(), 2, 4}, plan);
  EXPECT_TRUE(loader.next());
  EXPECT_TRUE(loader.next());
  EXPECT_FAILS(loader.next(), ExitCode::failure, "sample 10000 of a mixture of 47");
  // Destruction with an endless plan and work in flight ends.
}

TEST_F(Data, LoaderHandsOutEmptyMicroBatches) {
  auto plan = [i = 0]() mutable -> std::optional<Loader::Micro> {
    if (i++ > 1) return std::nullopt;
    return Loader::Micro{};
  };
  Loader loader(mixture_, encoder_, {options(), 1, 1}, plan);
  EXPECT_EQ(loader.next()->batch.size(), 0);
  EXPECT_EQ(loader.next()->batch.size(), 0);
  EXPECT_FALSE(loader.next());
  EXPECT_FALSE(loader.next());
}

TEST(LedgerFile, CountsCutsAndStopsTheRun) {
  TempFolder folder;
  const auto path = folder / "ledger.jsonl";
  uint64_t kept;
  {
    Ledger ledger(path);
    ledger.append({"id \"1\"\n", "a.jsonl:3", "image: broken", "set", 7}, 0);
    ledger.append({"2", "a.jsonl:4", "roles: x", "set", 9}, 1);
    ledger.sync();
    kept = ledger.bytes();
    ledger.append({"3", "a.jsonl:5", "json: y", "set", 11}, 1);
    EXPECT_EQ(ledger.count(), 3);
    EXPECT_EQ(ledger.count(1), 2);
    EXPECT_NO_THROW(ledger.check_budget(1, 100, 2));
    EXPECT_FAILS(ledger.check_budget(1, 100, 1), ExitCode::data, "2 of 100 samples of epoch 1 had to be left out, 1 are allowed");
    EXPECT_FAILS(ledger.check_budget(0, 100, 0), ExitCode::data, path.string());
    EXPECT_NO_THROW(ledger.check_budget(1, 100, -1));
  }
  const Json line = parse_json(read_file(path).substr(0, read_file(path).find('\n')), "line");
  EXPECT_EQ(line,
            Json({{"dataset", "set"}, {"id", "id \"1\"\n"}, {"position", 7}, {"epoch", 0}, {"reason", "image: broken"}, {"where", "a.jsonl:3"}}));
  Ledger resumed(path, static_cast<int64_t>(kept));
  EXPECT_EQ(resumed.count(), 2);
  EXPECT_EQ(resumed.count(1), 1);
  for (int i = 0; i < 25; ++i) resumed.append({"n", "w", "r", "set", i}, 2);
  EXPECT_NO_THROW(resumed.check_budget(2, 25000, -1));
  EXPECT_FAILS(resumed.check_budget(2, 24999, -1), ExitCode::data, "24 are allowed");
  EXPECT_EQ(Ledger(path).count(2), 25);
}

}  // namespace
}  // namespace fusion
