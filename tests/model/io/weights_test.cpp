#include "fusion/model/io/weights.h"

#include "fusion/base/error.h"
#include "fusion/base/json.h"
#include "model/io/temp_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>

namespace fusion {
namespace {

using test::get_file;
using test::put_file;
using test::TempFolder;
using testing::HasSubstr;

const std::vector<TensorSpec> kTensors = {{"z", at::kFloat, {3}}, {"a", at::kFloat, {2}}, {"m.10", at::kHalf, {4}}, {"m.2", at::kHalf, {4}}};

at::Tensor value_of(const TensorSpec& spec) { return at::full(spec.shape, static_cast<double>(spec.name.size()), spec.dtype); }

std::string refusal(const fs::path& folder) {
  try {
    Weights weights(folder);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Weights, SingleFile) {
  TempFolder folder;
  const auto files = write_weights(folder.path(), kTensors, value_of);
  ASSERT_EQ(files.size(), 1u);
  EXPECT_EQ(files[0].name, "model.safetensors");
  const Weights weights(folder.path());
  EXPECT_EQ(weights.names().size(), 4u);
  EXPECT_EQ(weights.total_bytes(), 36u);
  EXPECT_TRUE(at::equal(weights.tensor("m.10"), value_of(kTensors[2])));
  EXPECT_THROW(weights.tensor("none"), Error);
}

TEST(Weights, ShardsAndIndex) {
  TempFolder folder;
  const auto files = write_weights(folder.path(), kTensors, value_of, 20);
  ASSERT_EQ(files.size(), 3u);
  EXPECT_EQ(get_file(folder / "model.safetensors.index.json"), R"({
  "metadata": {
    "total_size": 36
  },
  "weight_map": {
    "a": "model-00001-of-00002.safetensors",
    "m.10": "model-00002-of-00002.safetensors",
    "m.2": "model-00002-of-00002.safetensors",
    "z": "model-00001-of-00002.safetensors"
  }
}
)");
  for (const WrittenFile& file : files) {
    EXPECT_EQ(file.sha256, sha256_file(folder / file.name));
    EXPECT_EQ(file.size, fs::file_size(folder / file.name));
  }
  const Weights weights(folder.path());
  EXPECT_EQ(weights.files().size(), 2u);
  for (const TensorSpec& spec : kTensors) {
    EXPECT_EQ(weights.spec(spec.name), spec);
    EXPECT_TRUE(at::equal(weights.tensor(spec.name), value_of(spec)));
  }
}

TEST(Weights, RefusesWhatTheIndexMayNotSay) {
  TempFolder folder;
  write_weights(folder.path(), kTensors, value_of, 20);
  const auto good = parse_json(get_file(folder / "model.safetensors.index.json"), "index");
  const auto with = [&](const std::string& name, const Json& file) {
    Json index = good;
    index["weight_map"][name] = file;
    put_file(folder / "model.safetensors.index.json", dump_json(index));
    return refusal(folder.path());
  };
  EXPECT_EQ(with("a", "model-00001-of-00002.safetensors"), "accepted");
  for (const char* name : {"../x.safetensors", "/etc/passwd", "sub/x.safetensors", "", ".", "..", ".hidden", "a\\b"})
    EXPECT_THAT(with("a", name), HasSubstr("plain file name")) << name;
  EXPECT_THAT(with("a", std::string("a\0b", 3)), HasSubstr("plain file name"));
  EXPECT_THAT(with("a", 3), HasSubstr("not a file name"));
  EXPECT_THAT(with("a", "none.safetensors"), HasSubstr("no such file"));
  EXPECT_THAT(with("a", "model-00002-of-00002.safetensors"), HasSubstr("no tensor \"a\""));
  EXPECT_THAT(with("b", "model-00002-of-00002.safetensors"), HasSubstr("no tensor \"b\""));
  Json index = good;
  index["weight_map"].erase("a");
  put_file(folder / "model.safetensors.index.json", dump_json(index));
  EXPECT_THAT(refusal(folder.path()), HasSubstr("\"a\" is not placed there"));
  put_file(folder / "model.safetensors.index.json", "{}");
  EXPECT_THAT(refusal(folder.path()), HasSubstr("weight_map"));
  put_file(folder / "model.safetensors.index.json", std::string(1000, '['));
  EXPECT_THAT(refusal(folder.path()), HasSubstr("nested"));
}

TEST(Weights, LinksStayInTheFolderOrTheHubCache) {
  TempFolder hub;
  const fs::path snapshot = hub / "snapshots/abc", blobs = hub / "blobs", elsewhere = hub / "elsewhere";
  for (const fs::path& folder : {snapshot, blobs, elsewhere}) fs::create_directories(folder);
  write_weights(blobs, kTensors, value_of);
  fs::copy(blobs / "model.safetensors", elsewhere / "model.safetensors");
  fs::create_symlink("../../blobs/model.safetensors", snapshot / "model.safetensors");
  EXPECT_EQ(refusal(snapshot), "accepted");
  fs::remove(snapshot / "model.safetensors");
  fs::create_symlink("../../elsewhere/model.safetensors", snapshot / "model.safetensors");
  EXPECT_THAT(refusal(snapshot), HasSubstr("outside its folder"));
}

TEST(Weights, RefusesOtherFormats) {
  TempFolder folder;
  EXPECT_THAT(refusal(folder.path()), HasSubstr("neither"));
  put_file(folder / "pytorch_model.bin", "PK");
  EXPECT_THAT(refusal(folder.path()), HasSubstr("pickled"));
  write_safetensors(folder / "model.safetensors", {{"a", at::full({2}, 1.0)}}, {{"format", "flax"}});
  EXPECT_THAT(refusal(folder.path()), HasSubstr("flax"));
  write_safetensors(folder / "model.safetensors", {{"a", at::full({2}, 1.0)}}, {});
  EXPECT_EQ(refusal(folder.path()), "accepted");
}

}  // namespace
}  // namespace fusion
