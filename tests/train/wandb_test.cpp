// Offline runs as a reader of their format sees them.
#include "fusion/train/wandb.h"

#include "errors.h"
#include "train_run.h"

#include <cstring>
#include <map>

namespace fusion {
namespace {

using test::OneStage;
using test::TempFolder;

/// CRC-32 bit by bit.
uint32_t plain_crc32(const std::string& bytes) {
  uint32_t sum = ~0u;
  for (const char byte : bytes) {
    sum ^= static_cast<uint8_t>(byte);
    for (int bit = 0; bit < 8; ++bit) sum = (sum >> 1) ^ (sum & 1 ? 0xEDB88320u : 0u);
  }
  return ~sum;
}

/// The records of a .wandb file, by the definition of LevelDB's log format; stops at a torn end.
std::vector<std::string> records(const fs::path& file) {
  const std::string bytes = read_file(file);
  std::vector<std::string> all;
  EXPECT_EQ(bytes.substr(0, 7), std::string(":W&B\xE1\xBE\0", 7));
  std::string begun;
  for (size_t at = 7; at + 7 <= bytes.size();) {
    const size_t left = 32768 - at % 32768;
    if (left < 7) {
      EXPECT_EQ(bytes.substr(at, left), std::string(left, '\0'));
      at += left;
      continue;
    }
    uint32_t sum;
    uint16_t length;
    std::memcpy(&sum, bytes.data() + at, 4);
    std::memcpy(&length, bytes.data() + at + 4, 2);
    const char kind = bytes[at + 6];
    const std::string data = bytes.substr(at + 7, length);
    EXPECT_LE(at % 32768 + 7 + length, 32768u);
    EXPECT_EQ(sum, plain_crc32(kind + data)) << "at " << at;
    EXPECT_EQ(kind == 1 || kind == 2, begun.empty()) << "at " << at;
    begun += data;
    if (kind == 1 || kind == 4) all.push_back(std::exchange(begun, ""));
    at += 7 + length;
  }
  return all;
}

/// Fields of a message: number -> values; numbers as text.
std::multimap<uint64_t, std::string> fields(const std::string& message) {
  std::multimap<uint64_t, std::string> all;
  size_t at = 0;
  const auto varint = [&] {
    uint64_t value = 0;
    for (int shift = 0; at < message.size(); shift += 7) {
      const auto byte = static_cast<uint8_t>(message[at++]);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) break;
    }
    return value;
  };
  while (at < message.size()) {
    const uint64_t key = varint();
    if ((key & 7) == 0) {
      all.emplace(key >> 3, std::to_string(varint()));
    } else {
      EXPECT_EQ(key & 7, 2u);
      const uint64_t length = varint();
      all.emplace(key >> 3, message.substr(at, length));
      at += length;
    }
  }
  EXPECT_EQ(at, message.size());
  return all;
}

/// Keys and JSON of a message's items.
std::map<std::string, std::string> items(const std::string& message) {
  std::map<std::string, std::string> all;
  for (const auto& [field, value] : fields(message)) {
    if (field != 1) continue;
    const auto item = fields(value);
    EXPECT_TRUE(all.emplace(item.find(1)->second, item.find(16)->second).second);
  }
  return all;
}

/// History rows of a file, and how many records of each other kind it has.
struct Contents {
  std::vector<std::map<std::string, std::string>> rows;
  std::map<uint64_t, std::string> others;
};
Contents contents(const fs::path& file) {
  Contents found;
  for (const std::string& record : records(file)) {
    const auto one = fields(record);
    EXPECT_EQ(one.size(), 1u);
    if (one.begin()->first == 2) {
      found.rows.push_back(items(one.begin()->second));
    } else {
      EXPECT_TRUE(found.others.emplace(*one.begin()).second) << "two records of field " << one.begin()->first;
    }
  }
  return found;
}

StepReport report_of(double loss) {
  StepReport report;
  report.loss = loss, report.seconds = 0.5, report.query_lens = {4};
  return report;
}

TrainState state_of(int64_t step) {
  TrainState state;
  state.step = step;
  return state;
}

TEST(WandbFile, RowsSummaryAndExit) {
  EXPECT_EQ(plain_crc32("123456789"), 0xCBF43926u);
  const TempFolder folder;
  WandbFile file(folder / "wandb", {.run = "demo", .stage = "two", .config = {{"train", {{"lr", 0.5}}}}, .rates = {{"decoder", 2.0}}});
  file.after_step(state_of(1), report_of(1.5));
  file.after_step(state_of(2), report_of(std::numeric_limits<double>::quiet_NaN()));
  file.after_evaluation(state_of(2), {{"exact_match", 0.25}});
  file.finish();
  const Contents found = contents(file.path());
  ASSERT_EQ(found.rows.size(), 2u);
  EXPECT_EQ(found.rows[0].at("train/loss"), "1.5");
  EXPECT_EQ(found.rows[0].at("_step"), "1");
  EXPECT_EQ(found.rows[1].at("train/loss"), "\"NaN\"");
  EXPECT_EQ(found.rows[1].at("evaluation/exact_match"), "0.25");
  ASSERT_EQ(found.others.size(), 5u);  // header, run, summary, exit, final
  const auto run = fields(found.others.at(17));
  EXPECT_EQ("run-" + run.find(1)->second + ".wandb", file.path().filename());
  EXPECT_EQ(run.find(6)->second, "demo");
  EXPECT_EQ(run.find(8)->second, "demo-two");
  EXPECT_EQ(items(run.find(4)->second).at("train"), "{\"lr\":0.5}");
  EXPECT_EQ(items(found.others.at(3)).at("evaluation/exact_match"), "0.25");
  EXPECT_TRUE(found.others.contains(18));
}

TEST(WandbFile, RecordsCrossBlocksAndResumesDropWhatCameLater) {
  const TempFolder folder;
  const WandbFile::Options options{.run = "demo", .stage = "", .config = {{"text", std::string(100'000, 'x')}}, .rates = {}};  // four blocks
  uint64_t kept = 0;
  int64_t step = 0;
  fs::path path;
  for (int session = 0; session < 12; ++session) {
    WandbFile::Options again = options;
    again.keep_bytes = kept;
    WandbFile file(folder / "wandb", again);
    EXPECT_TRUE(path.empty() || path == file.path());
    path = file.path();
    for (int i = 0; i < 40; ++i) ++step, file.after_step(state_of(step), report_of(static_cast<double>(step)));
    kept = file.sync();
    for (int i = 1; i < 5 + session; ++i) file.after_step(state_of(step + i), report_of(-1));  // lost in a crash
  }
  WandbFile::Options again = options;
  again.keep_bytes = kept;
  WandbFile(folder / "wandb", again).finish();
  const Contents found = contents(path);
  ASSERT_EQ(found.rows.size(), static_cast<size_t>(step));
  for (int64_t i = 0; i < step; ++i) EXPECT_EQ(found.rows[static_cast<size_t>(i)].at("train/loss"), fmt::format("{}.0", i + 1));
  EXPECT_EQ(items(fields(found.others.at(17)).find(4)->second).at("text").size(), 100'002u);
}

TEST(WandbFile, AFileThatLostItsPointsBeginsAnew) {
  const TempFolder folder;
  WandbFile::Options options{.run = "demo", .stage = "", .config = Json::object(), .rates = {}};
  const fs::path path = WandbFile(folder / "wandb", options).path();
  write_file(path, "torn");
  options.keep_bytes = 1000;
  WandbFile file(folder / "wandb", options);
  file.after_step(state_of(7), report_of(1));
  file.finish();
  EXPECT_EQ(file.path(), path);
  EXPECT_EQ(contents(path).rows.size(), 1u);
}

TEST_F(OneStage, AnOfflineRunHoldsEachStepOnceAfterACrash) {
  const std::vector<std::string> overrides = {"data.mixture=" + (folder_ / "data" / "stage1.json").string(), "checkpoint.every=5", "log.wandb=true",
                                              "train.eval_every=4"};
  ASSERT_EQ(run(overrides), ExitCode::done);
  remove_tree(folder_ / "run" / "finished.json");
  remove_tree(folder_ / "run" / "checkpoints" / "step-00000012");
  ASSERT_EQ(run(overrides), ExitCode::done);
  fs::path file;
  for (const auto& entry : fs::recursive_directory_iterator(folder_ / "run" / "wandb"))
    if (entry.path().extension() == ".wandb") {
      EXPECT_TRUE(std::exchange(file, entry.path()).empty());
    }
  const Contents found = contents(file);
  const auto lines_there = lines("metrics.jsonl");
  ASSERT_EQ(found.rows.size(), 12u);
  size_t row = 0;
  for (const Json& line : lines_there) {
    if (line.contains("evaluation")) {
      EXPECT_EQ(found.rows[row - 1].at("evaluation/loss"), dump_json(line["evaluation"]["loss"], -1));
      continue;
    }
    EXPECT_EQ(found.rows[row].at("_step"), std::to_string(row + 1));
    for (const char* key : {"loss", "ce", "grad_norm"}) EXPECT_EQ(found.rows[row].at(std::string("train/") + key), dump_json(line[key], -1));
    EXPECT_EQ(found.rows[row].at("ce/stage1"), dump_json(line["ce.stage1"], -1));
    EXPECT_EQ(found.rows[row].at("grad_norm/decoder"), dump_json(line["grad_norm.decoder"], -1));
    ++row;
  }
  const auto config = items(fields(found.others.at(17)).find(4)->second);
  EXPECT_EQ(parse_json(config.at("train"), "config")["global_batch"], 8);
  EXPECT_EQ(parse_json(config.at("train"), "config")["dtype"], "fp32");
}

}  // namespace
}  // namespace fusion
