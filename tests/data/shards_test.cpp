// Shards of every kind give the batches of the plain folder, by their path or in a mixture, from the original or from a copy.
#include "errors.h"
#include "fusion/data/annotation.h"
#include "fusion/data/check.h"
#include "fusion/data/source_files.h"
#include "fusion/data/train_tokenizer.h"
#include "shard_files.h"
#include "temp_folder.h"

#include <chrono>
#include <thread>

namespace fusion {
namespace {

using test::expect_equal;
using test::LlavaFolder;
using test::load_all;
using test::TempFolder;

const LlavaFolder::Columns kJson = {{"image", "bytes"}, {"json", "str"}, {"number", "int"}};
const LlavaFolder::Columns kSplit = {{"conversations", "json"}, {"id", "str"}, {"image", "bytes"}};

class Shards : public testing::Test {
 protected:
  void SetUp() override {
    train_tokenizer({plain_.folder / "data.jsonl"}, 400, folder_ / "tokenizer");
    encoder_ = std::make_shared<ConversationEncoder>(load_tokenizer(folder_ / "tokenizer"), Template::phi_3);
    expected_ = load_all(open(plain_.folder / "data.jsonl"), encoder_);
    for (int i = 0; i < 3; ++i) {
      write_file(folder_ / fmt::format("s-{:03}.tar", 8 + i), plain_.tar(10 * i, 10 * i + 10), Sync::no);
    }
    for (const auto& [name, columns] : {std::pair("json", kJson), std::pair("split", kSplit)}) {
      make_directories(folder_ / name);
      Json shards = Json::array();
      for (const auto& [begin, end] : {std::pair(0, 17), std::pair(17, 30)}) {
        const std::string file = fmt::format("shard.{:05}.mds", shards.size()), bytes = plain_.mds(begin, end, columns);
        write_file(folder_ / name / file, bytes, Sync::no);
        shards.push_back({{"format", "mds"},
                          {"version", 2},
                          {"compression", nullptr},
                          {"samples", end - begin},
                          {"raw_data", {{"basename", file}, {"bytes", bytes.size()}, {"hashes", Json::object()}}},
                          {"zip_data", nullptr}});
      }
      write_file(folder_ / name / "index.json", dump_json({{"shards", shards}, {"version", 2}}), Sync::no);
    }
  }

  static std::shared_ptr<const Mixture> open(const fs::path& path, const CacheOptions& cache = {}) {
    return std::make_shared<Mixture>(path, "", 0, 0, "", cache);
  }

  TempFolder folder_;
  LlavaFolder plain_{folder_ / "plain"};
  std::shared_ptr<ConversationEncoder> encoder_;
  std::vector<LoadedBatch> expected_;
};

TEST_F(Shards, GiveThePlainFoldersBatches) {
  size_t rejected = 0;
  for (const LoadedBatch& batch : expected_) rejected += batch.rejected.size();
  ASSERT_EQ(rejected, 3u);  // a missing picture, a broken one, and roles
  for (const char* name : {"s-{008..010}.tar", "json", "split/"}) {
    SCOPED_TRACE(name);
    const auto mixture = open(folder_ / name);
    expect_equal(expected_, load_all(mixture, encoder_));
    EXPECT_EQ(mixture->modality_lengths(), open(plain_.folder / "data.jsonl")->modality_lengths());
  }
  write_file(folder_ / "m.yaml", "datasets:\n- json_path: s-{008..009}.tar\n  sampling_strategy: first:20\n- json_path: 's-{010,008}.tar'\n",
             Sync::no);
  const auto mixture = open(folder_ / "m.yaml");
  ASSERT_EQ(mixture->sources().size(), 3u);
  EXPECT_EQ(mixture->size(), 40);
  EXPECT_EQ(mixture->sources()[1].name, "s-010");
  EXPECT_EQ(mixture->sample(21).id, "row-21");
  EXPECT_THAT(mixture->sample(1).image, testing::EndsWith("s-008.tar: d/00001.png"));
  EXPECT_THAT(mixture->sample(1).where, testing::EndsWith("s-008.tar: sample d/00001"));
}

TEST_F(Shards, AreCheckedAsTheFolderIs) {
  const CheckOptions options{{.max_length = 200, .image_size = 8}, true, 2};
  const auto plain = check_data(*open(plain_.folder / "data.jsonl"), *encoder_, options);
  for (const char* name : {"s-{008..010}.tar", "json", "split"}) {
    const auto check = check_data(*open(folder_ / name), *encoder_, options);
    EXPECT_EQ(check.sources[0].rejected, plain.sources[0].rejected) << name;
    EXPECT_EQ(check.sources[0].duplicates, plain.sources[0].duplicates) << name;
  }
}

TEST_F(Shards, FindPictures) {
  const std::string turns = R"("conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}])";
  const auto sample = [&](const std::string& members, const std::vector<std::string>& names) {
    std::string text = test::tar_member("k.json", "{" + members + turns + "}");
    for (const std::string& name : names) text += test::tar_member(name, name);
    write_file(folder_ / "t.tar", text + std::string(tar_end()), Sync::no);
    const Sample found = AnnotationFile(folder_ / "t.tar").sample(0);
    return found.stored ? std::string(reinterpret_cast<const char*>(found.stored->bytes.data()), found.stored->bytes.size()) : "";
  };
  EXPECT_EQ(sample("", {}), "");
  EXPECT_EQ(sample("", {"k.txt", "k.JPG"}), "k.JPG");      // the row does not say: its only picture
  EXPECT_EQ(sample(R"("image": null, )", {"k.jpg"}), "");  // the row says: none
  EXPECT_EQ(sample(R"("image": "x/y.png", )", {"k.jpg"}), "k.jpg");
  EXPECT_EQ(sample(R"("image": "k.1.jpg", )", {"k.0.jpg", "k.1.jpg"}), "k.1.jpg");
  EXPECT_EQ(sample(R"("image": "k.raw", )", {"k.raw", "k.jpg"}), "k.raw");
  EXPECT_FAILS(sample(R"("image": "x.png", )", {"k.0.jpg", "k.1.jpg"}), ExitCode::data, "image: 'x.png' is no member of the sample");
  EXPECT_FAILS(sample(R"("image": "x.png", )", {}), ExitCode::data, "image: 'x.png'");
  write_file(folder_ / "t.tar", test::tar_member("k.jpg", "x") + std::string(tar_end()), Sync::no);
  EXPECT_FAILS(AnnotationFile(folder_ / "t.tar").sample(0), ExitCode::data, "row: the sample 'k' has no member k.json");
}

TEST_F(Shards, RefuseWhatIsNotListedOrNotThere) {
  const auto refused = [&](const fs::path& path, ExitCode code, const std::string& why) {
    EXPECT_FAILS(AnnotationFile(folder_ / path.string()), code, why);
  };
  refused("s-{008..011}.tar", ExitCode::usage, "s-011.tar: no such file");
  refused("s-{9..8}.tar", ExitCode::usage, "counts upwards");
  refused("s-{0..99999999}.tar", ExitCode::usage, "names at most");
  make_directories(folder_ / "empty");
  refused("empty", ExitCode::usage, "a folder without shards");
  write_file(folder_ / "a.tar.gz", "x", Sync::no);
  refused("a.tar.gz", ExitCode::usage, "unpack the archive itself first");
  const auto index = [&](const std::string& shard) {
    write_file(folder_ / "empty/index.json", R"({"version": 2, "shards": [)" + shard + "]}", Sync::no);
  };
  const auto mds = [](const std::string& name, size_t bytes, int samples, const char* compression = "null") {
    return fmt::format(R"({{"format": "mds", "compression": {}, "samples": {}, "raw_data": {{"basename": "{}", "bytes": {}}}}})", compression,
                       samples, name, bytes);
  };
  const std::string bytes = plain_.mds(0, 5, kJson);
  write_file(folder_ / "empty/a.mds", bytes, Sync::no);
  index(mds("a.mds", bytes.size(), 5));
  EXPECT_EQ(AnnotationFile(folder_ / "empty").size(), 5);
  index(mds("../a.mds", bytes.size(), 5));
  refused("empty", ExitCode::usage, "no name of a file of this folder");
  index(mds("a.mds", bytes.size() + 1, 5));
  refused("empty", ExitCode::data, "bytes, index.json lists");
  index(mds("a.mds", bytes.size(), 4));
  refused("empty", ExitCode::data, "5 samples, index.json lists 4");
  index(mds("b.mds", 7, 4, "\"zstd:7\""));
  refused("empty", ExitCode::usage, "unzstd");
  index(R"({"format": "json"})");
  refused("empty", ExitCode::usage, "format 'json'");
  for (const auto& [columns, why] : std::vector<std::pair<LlavaFolder::Columns, std::string>>{
           {{{"image", "pil"}, {"json", "str"}}, "column 'image' has the encoding 'pil'; jpeg, png, bytes are read"},
           {{{"json", "pkl"}}, "column 'json' has the encoding 'pkl'"},
           {{{"extra", "pkl"}, {"json", "str"}}, "column 'extra' has the encoding 'pkl', which is not read"},
           {{{"id", "str"}}, "a row needs 'json'"}}) {
    write_file(folder_ / "b.mds", plain_.mds(0, 2, columns), Sync::no);
    refused("b.mds", ExitCode::data, why);
  }
}

TEST_F(Shards, DamagedMdsIsRefusedOrBounded) {
  const std::string whole = plain_.mds(0, 3, kSplit);
  const auto read_all = [&](const std::string& bytes) {
    write_file(folder_ / "x.mds", bytes, Sync::no);
    const AnnotationFile file(folder_ / "x.mds");
    for (int64_t i = 0; i < file.size(); ++i) {
      try {
        file.sample(i);
      } catch (const BadSample&) {
      }
    }
  };
  read_all(whole);
  for (size_t size = 0; size < whole.size(); size += size < 400 ? 1 : 13) EXPECT_THROW(read_all(whole.substr(0, size)), Error) << size;
  for (size_t at = 0; at < whole.size(); at += at < 500 ? 1 : 7)
    for (const int value : {0, 1, 0x7F, 0xFF}) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(value);
      try {
        read_all(damaged);
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::data) << at;
      }
    }
}

TEST_F(Shards, AreReadFromCopies) {
  const fs::path cache = folder_ / "cache", set = folder_ / "s-{008..010}.tar";
  const auto copies = [&] {
    uint64_t bytes = 0, count = 0;
    std::error_code gone;  // copies come and go meanwhile
    for (const auto& entry : fs::directory_iterator(cache))
      if (const auto size = entry.file_size(gone); entry.path().extension() == ".tar" && !gone) ++count, bytes += size;
    return std::pair(count, bytes);
  };
  const auto read_until = [&](const CacheOptions& options, uint64_t count) {  // copies come in the background
    const auto mixture = open(set, options);
    expect_equal(expected_, load_all(mixture, encoder_));
    for (int i = 0; i < 200 && copies().first < count; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    expect_equal(expected_, load_all(mixture, encoder_));
  };
  read_until({cache, 1'000'000'000}, 3);
  EXPECT_EQ(copies().first, 3u);
  // A damaged copy is noticed, one that is half written goes.
  const fs::path copy = cache / (AnnotationFile(folder_ / "s-009.tar").content_hash() + ".tar");
  std::string bytes = read_file(copy);
  bytes[600] ^= 1;
  write_file(copy, bytes, Sync::no);
  write_file(cache / (copy.filename().string() + ".tmp-0123456789abcdef"), "x", Sync::no);
  read_until({cache, 1'000'000'000}, 3);
  const auto repaired = [&] {
    try {
      return read_file(copy) == read_file(folder_ / "s-009.tar");
    } catch (const Error&) {  // the damaged one is removed before the new one is there
      return false;
    }
  };
  for (int i = 0; i < 200 && !repaired(); ++i) {
    read_until({cache, 1'000'000'000}, 3);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  EXPECT_TRUE(repaired());
  // The bound holds; what another run left is removed first.
  const uint64_t one = fs::file_size(folder_ / "s-008.tar") + 6000;
  write_file(folder_ / "s-008.tar", plain_.tar(10, 20), Sync::no);
  write_file(folder_ / "s-009.tar", plain_.tar(0, 10), Sync::no);
  const auto mixture = open(folder_ / "s-{008..009}.tar", {cache, one});
  for (int i = 0; i < 200 && copies().second > one; ++i) {
    load_all(mixture, encoder_);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_LE(copies().second, one);
  EXPECT_EQ(load_all(mixture, encoder_)[0].batch.ids, (std::vector<std::string>{"row-10", "row-11", "row-12"}));
}

}  // namespace
}  // namespace fusion
