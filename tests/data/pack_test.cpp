// Packing: the mixture's batches again, the same bytes for any number of jobs, and what is done stays done.
#include "fusion/data/pack.h"

#include "errors.h"
#include "fusion/data/annotation.h"
#include "fusion/data/train_tokenizer.h"
#include "shard_files.h"
#include "temp_folder.h"

#include <gmock/gmock.h>

#include <map>

namespace fusion {
namespace {

using test::expect_equal;
using test::LlavaFolder;
using test::load_all;
using test::TempFolder;

std::map<std::string, std::string> contents(const fs::path& folder) {
  std::map<std::string, std::string> out;
  for (const auto& entry : fs::directory_iterator(folder))
    if (!entry.path().filename().string().starts_with('.')) out[entry.path().filename()] = read_file(entry.path());
  return out;
}

class Pack : public testing::Test {
 protected:
  void SetUp() override {
    write_file(folder_ / "m.yaml",
               "datasets:\n- json_path: plain/data.jsonl\n  name: 'all: of {it}'\n  sampling_strategy: first:25\n"
               "- json_path: plain/data.jsonl\n  sampling_strategy: end:5\n  name: last\n  repeat: 2\n",
               Sync::no);
  }
  std::shared_ptr<const Mixture> open(const fs::path& path) const { return std::make_shared<Mixture>(path, "", 0); }

  TempFolder folder_;
  LlavaFolder plain_{folder_ / "plain"};
};

TEST_F(Pack, GivesTheMixturesBatches) {
  train_tokenizer({plain_.folder / "data.jsonl"}, 400, folder_ / "tokenizer");
  const auto encoder = std::make_shared<ConversationEncoder>(load_tokenizer(folder_ / "tokenizer"), Template::phi_3);
  const auto mixture = open(folder_ / "m.yaml");
  const PackReport report = pack_mixture(*mixture, folder_ / "out", {.shard_bytes = 20'000, .jobs = 2});
  EXPECT_EQ(report.rows, 30);
  EXPECT_GT(report.shards, 3);
  ASSERT_EQ(report.unusable.size(), 1u);  // the picture that is not there; what is in pictures and roles, `fusion data check` tells
  EXPECT_EQ(report.unusable[0].id, "row-4");
  EXPECT_EQ(report.unusable[0].source, "all: of {it}");
  EXPECT_THAT(read_file(folder_ / "out/unusable.jsonl"), testing::HasSubstr("No such file"));

  const auto packed = open(folder_ / "out/mixture.yaml");
  ASSERT_EQ(packed->sources().size(), 2u);
  EXPECT_EQ(packed->sources()[0].name, "all: of {it}");
  EXPECT_EQ(packed->sources()[1].repeat, 2);
  EXPECT_EQ(packed->modality_lengths(), mixture->modality_lengths());
  expect_equal(load_all(mixture, encoder), load_all(packed, encoder));
  EXPECT_EQ(AnnotationFile(folder_ / "out").size(), 30);
  for (const auto& entry : fs::directory_iterator(folder_ / "out"))
    EXPECT_TRUE(entry.path().extension() != ".tar" || entry.file_size() <= 20'000u) << entry.path();
  // Shards can be packed again: from tar, larger.
  pack_mixture(*packed, folder_ / "again", {.shard_bytes = 1'000'000});
  expect_equal(load_all(mixture, encoder), load_all(open(folder_ / "again/mixture.yaml"), encoder));
}

TEST_F(Pack, BytesDoNotDependOnJobs) {
  const auto mixture = open(folder_ / "m.yaml");
  pack_mixture(*mixture, folder_ / "one", {.shard_bytes = 20'000, .jobs = 1});
  pack_mixture(*mixture, folder_ / "two", {.shard_bytes = 20'000, .jobs = 2});
  EXPECT_EQ(contents(folder_ / "one"), contents(folder_ / "two"));
}

TEST_F(Pack, GoesOnWhereItStopped) {
  const auto mixture = open(folder_ / "m.yaml");
  const PackOptions options{.shard_bytes = 20'000, .jobs = 1};
  const fs::path out = folder_ / "out";
  const PackReport first = pack_mixture(*mixture, out, options);
  EXPECT_EQ(first.kept, 0);
  const auto whole = contents(out);
  std::vector<std::string> shards;
  for (const auto& [name, bytes] : whole)
    if (name.ends_with(".tar")) shards.push_back(name);
  ASSERT_GE(shards.size(), 4u);
  EXPECT_EQ(pack_mixture(*mixture, out, options).kept, first.shards);
  // As a kill leaves it: no index, notes of some shards with a torn line, a shard that is missing, a cut one, a damaged one, half of another.
  std::string notes;
  const Json index = parse_json(whole.at("index.json"), "index.json");
  for (const Json& shard : index["shards"]) notes += dump_json(shard, -1) + "\n";
  const auto interrupt = [&] {
    fs::remove(out / "index.json");
    write_file(out / "pack.jsonl", notes + "{\"file\": \"00-", Sync::no);
  };
  interrupt();
  fs::remove(out / shards[0]);
  write_file(out / shards[1], whole.at(shards[1]).substr(0, 5000), Sync::no);
  std::string flipped = whole.at(shards[2]);
  flipped[1000] ^= 4;
  write_file(out / shards[2], flipped, Sync::no);
  write_file(out / (shards[0] + ".tmp-0123456789abcdef"), "half", Sync::no);
  EXPECT_EQ(pack_mixture(*mixture, out, options).kept, first.shards - 3);
  EXPECT_EQ(contents(out), whole);
  // A shard with a right digest of other rows: the verification sees it.
  const std::string other = plain_.tar(0, 1);
  interrupt();
  const fs::path pictures = plain_.folder / "p/1.png";
  std::string picture = read_file(pictures);
  picture.back() ^= 1;
  write_file(pictures, picture, Sync::no);
  EXPECT_EQ(pack_mixture(*mixture, out, options).kept, first.shards - 1);
  EXPECT_NE(contents(out), whole);
  // Another size or mixture needs another folder; so does a second process.
  EXPECT_FAILS(pack_mixture(*mixture, out, {.shard_bytes = 1'000'000}), ExitCode::usage, "choose another folder");
  const FileLock lock(out / ".lock");
  EXPECT_FAILS(pack_mixture(*mixture, out, options), ExitCode::usage, "is locked");
}

}  // namespace
}  // namespace fusion
