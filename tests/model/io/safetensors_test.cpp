// Safetensors: the official library's bytes out, every damage refused. tests/data/safetensors/all_types.safetensors was written by the official
// library 0.5.3.
#include "fusion/model/io/safetensors.h"

#include "fusion/base/error.h"
#include "fusion/base/random.h"
#include "model/io/temp_folder.h"
#include "shared_data.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cstring>

namespace fusion {
namespace {

using test::get_file;
using test::put_file;
using test::TempFolder;
using testing::HasSubstr;

std::string with_length(std::string_view header, std::string_view data = "") {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + std::string(header) + std::string(data);
}

/// Opens and touches everything a caller can reach: true when accepted, false when refused with Error. Anything else fails the test.
bool open_all(const fs::path& path, uint64_t file_size) {
  try {
    const SafetensorsFile file(path);
    for (const auto& [name, entry] : file.entries()) {
      const auto bytes = file.bytes(name);
      EXPECT_LE(entry.begin, entry.end);
      EXPECT_LE(entry.end, file_size);
      EXPECT_EQ(bytes.size(), tensor_bytes(entry.dtype, entry.shape));
      int sum = 0;
      for (const std::byte b : bytes) sum += std::to_integer<int>(b);
      EXPECT_GE(sum, 0);
      try {
        EXPECT_EQ(file.tensor(name).nbytes(), bytes.size());
      } catch (const Error& error) {
        EXPECT_THAT(error.what(), HasSubstr("BOOL"));
      }
    }
    return true;
  } catch (const Error&) {
    return false;
  }
}

std::string refusal(const TempFolder& folder, std::string_view content) {
  put_file(folder / "x.safetensors", content);
  try {
    SafetensorsFile file(folder / "x.safetensors");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    return error.what();
  }
  return "accepted";
}

/// Reads `path` and writes it anew from its tensors.
WrittenFile rewrite(const fs::path& path, const fs::path& copy) {
  const SafetensorsFile file(path);
  std::vector<TensorSpec> specs;
  for (const auto& [name, entry] : file.entries()) specs.push_back(file.spec(name));
  return write_safetensors(
      copy, specs, [&](const TensorSpec& spec) { return file.tensor(spec.name); }, file.metadata());
}

TEST(Safetensors, WritesTheOfficialBytes) {
  TempFolder folder;
  const auto reference = test::own_data("safetensors/all_types.safetensors");
  const WrittenFile written = rewrite(reference, folder / "copy.safetensors");
  EXPECT_EQ(get_file(folder / "copy.safetensors"), get_file(reference));
  EXPECT_EQ(written.name, "copy.safetensors");
  EXPECT_EQ(written.size, fs::file_size(reference));
  EXPECT_EQ(written.sha256, sha256_file(reference));
}

TEST(Safetensors, RewritesEveryGoldenFileByteForByte) {
  const auto golden = test::shared_data("golden/model");
  if (!golden) GTEST_SKIP() << "no golden data";
  TempFolder folder;
  int files = 0;
  for (const auto& item : fs::recursive_directory_iterator(*golden)) {
    if (item.path().extension() != ".safetensors" || item.file_size() > 3'000'000) continue;
    const SafetensorsFile file(item.path());
    if (file.metadata().size() > 1) continue;  // the official library writes several keys in random order
    rewrite(item.path(), folder / "copy");
    EXPECT_TRUE(get_file(folder / "copy") == get_file(item.path())) << item.path();
    ++files;
  }
  EXPECT_GT(files, 8);
}

TEST(Safetensors, ReadsValuesOfAllTypes) {
  const SafetensorsFile file(test::own_data("safetensors/all_types.safetensors"));
  EXPECT_EQ(file.metadata(), (Metadata{{"format", "pt"}}));
  EXPECT_EQ(file.entries().size(), 22u);
  EXPECT_EQ(file.entry("scalar").shape, std::vector<int64_t>{});
  EXPECT_EQ(file.tensor("empty").sizes().vec(), (std::vector<int64_t>{0, 4}));
  EXPECT_EQ(file.spec("all.bf16"), (TensorSpec{"all.bf16", at::kBFloat16, {3, 3}}));
  // The generator wrote byte i as (37 i + length of the name) mod 97.
  const at::Tensor bytes = file.tensor("all.u8");
  for (int64_t i = 0; i < bytes.numel(); ++i) EXPECT_EQ(bytes.flatten()[i].item<int>(), (37 * i + 6) % 97);
  float first;
  std::memcpy(&first, file.bytes("all.f32").data(), 4);
  EXPECT_EQ(file.tensor("all.f32").flatten()[0].item<float>(), first);
  EXPECT_TRUE(file.contains("\u00e9 \u4f60\u597d"));
  EXPECT_TRUE(file.contains("quote\" back\\ tab\t bell\a del\x7f"));
}

TEST(Safetensors, TensorOutlivesItsFileObject) {
  TempFolder folder;
  const at::Tensor values = at::arange(1000, at::kFloat);
  write_safetensors(folder / "a", {{"x", values}});
  at::Tensor read;
  {
    const SafetensorsFile file(folder / "a");
    read = file.tensor("x");
  }
  fs::remove(folder / "a");
  EXPECT_TRUE(at::equal(read, values));
}

TEST(Safetensors, WritesViewsAsTheirValues) {
  TempFolder folder;
  const at::Tensor base = at::arange(12, at::kLong).view({3, 4});
  write_safetensors(folder / "a", {{"t", base.t()}, {"part", base.slice(1, 1, 3)}});
  const SafetensorsFile file(folder / "a");
  EXPECT_TRUE(at::equal(file.tensor("t"), base.t()));
  EXPECT_TRUE(at::equal(file.tensor("part"), base.slice(1, 1, 3)));
}

TEST(Safetensors, ReadsTensorsThatAreNotAligned) {
  TempFolder folder;
  std::string data(1, '\1');
  const float values[] = {1.5f, -2.0f};
  data.append(reinterpret_cast<const char*>(values), sizeof values);
  put_file(folder / "a",
           with_length(R"({"b":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]},"f":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})", data));
  const SafetensorsFile file(folder / "a");
  EXPECT_TRUE(at::equal(file.tensor("f"), at::tensor({1.5f, -2.0f})));
}

TEST(Safetensors, WriterRefusesWhatWasNotAnnounced) {
  TempFolder folder;
  const auto source = [](const TensorSpec&) { return at::zeros({2, 3}); };
  EXPECT_THROW(write_safetensors(folder / "a", {{"x", at::kFloat, {3, 2}}}, source), Error);
  EXPECT_THROW(write_safetensors(folder / "a", {{"x", at::kHalf, {2, 3}}}, source), Error);
  EXPECT_THROW(write_safetensors(folder / "a", {{"x", at::kFloat, {2, 3}}, {"x", at::kFloat, {2, 3}}}, source), Error);
  EXPECT_THROW(write_safetensors(folder / "a", {{"__metadata__", at::kFloat, {2, 3}}}, source), Error);
  EXPECT_TRUE(fs::is_empty(folder.path()));  // no file, no temporary one
}

TEST(Safetensors, RefusesHostileHeaders) {
  TempFolder folder;
  const std::string data(16, '\0');
  const auto entry = [](std::string_view body) { return "{\"a\":{" + std::string(body) + "}}"; };
  const std::string good = R"("dtype":"F32","shape":[4],"data_offsets":[0,16])";
  ASSERT_EQ(refusal(folder, with_length(entry(good), data)), "accepted");

  const std::vector<std::pair<std::string, std::string>> cases = {
      {entry(R"("dtype":"F32","shape":[5],"data_offsets":[0,16])"), "data_offsets"},
      {entry(R"("dtype":"F32","shape":[4],"data_offsets":[0,20])"), "data_offsets"},
      {entry(R"("dtype":"F32","shape":[3],"data_offsets":[4,16])"), "data_offsets"},
      {entry(R"("dtype":"F32","shape":[3],"data_offsets":[0,12])"), "after the last tensor"},
      {entry(R"("dtype":"F32","shape":[4],"data_offsets":[16,0])"), "data_offsets"},
      {entry(R"("dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,16])"), "overflows"},
      {entry(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,16])"), "overflows"},
      {entry(R"("dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0])"), "overflows"},
      {entry(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,16])"), "too large"},
      {entry(R"("dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,16])"), "unsigned integer"},
      {entry(R"("dtype":"F32","shape":[-4],"data_offsets":[0,16])"), "negative"},
      {entry(R"("dtype":"F32","shape":[4.0],"data_offsets":[0,16])"), "unsigned integer"},
      {entry(R"("dtype":"F32","shape":["4"],"data_offsets":[0,16])"), "unexpected text"},
      {entry(R"("dtype":"F32","shape":[[4]],"data_offsets":[0,16])"), "unexpected list"},
      {entry(R"("dtype":"F32","shape":[{}],"data_offsets":[0,16])"), "nested"},
      {entry(R"("dtype":"F32","shape":4,"data_offsets":[0,16])"), "unexpected number"},
      {entry(R"("dtype":"F32","shape":"4","data_offsets":[0,16])"), "text in place"},
      {entry(R"("dtype":"F32","shape":null,"data_offsets":[0,16])"), "null"},
      {entry(R"("dtype":"F33","shape":[4],"data_offsets":[0,16])"), "dtype \"F33\""},
      {entry(R"("dtype":["F32"],"shape":[4],"data_offsets":[0,16])"), "unexpected list"},
      {entry(R"("dtype":"F32","shape":[4],"data_offsets":[0,16,16])"), "more than two"},
      {entry(R"("dtype":"F32","shape":[4],"data_offsets":[0])"), "missing"},
      {entry(R"("dtype":"F32","shape":[4])"), "missing"},
      {entry(R"("shape":[4],"data_offsets":[0,16])"), "missing"},
      {entry(good + R"(,"shape":[4])"), "duplicate key"},
      {entry(good + R"(,"more":[4])"), "unknown key"},
      {"{\"a\":{" + good + "},\"a\":{" + good + "}}", "duplicate name"},
      {R"({"__metadata__":{"a":"b","a":"c"}})", "duplicate key"},
      {R"({"__metadata__":{},"__metadata__":{}})", "duplicate name"},
      {R"({"__metadata__":{"a":1}})", "unexpected number"},
      {R"({"__metadata__":{"a":{}}})", "nested"},
      {R"({"__metadata__":"a"})", "unexpected text"},
      {"{\"a\":{" + good + "},\"b\":{" + good + "}}", "data_offsets"},  // overlap
      {"[" + good + "]", "'{'"},
      {" " + entry(good), "'{'"},
      {entry(good) + "x", "bad JSON"},
      {entry(good).substr(0, 30), "bad JSON"},
      {"{\"a\xff\":{" + good + "}}", "bad JSON"},
      {"{\"a\":" + std::string(100000, '['), "unexpected list"},
      {std::string(100000, '{'), "bad JSON"},
      {"{\"a\":{\"shape\":" + std::string(100000, '['), "unexpected list"},
  };
  for (const auto& [header, reason] : cases) EXPECT_THAT(refusal(folder, with_length(header, data)), HasSubstr(reason)) << header.substr(0, 200);
}

TEST(Safetensors, RefusesBadLengths) {
  TempFolder folder;
  EXPECT_THAT(refusal(folder, ""), HasSubstr("too few"));
  EXPECT_THAT(refusal(folder, "1234567"), HasSubstr("too few"));
  EXPECT_THAT(refusal(folder, std::string(8, '\xff')), HasSubstr("header length"));
  EXPECT_THAT(refusal(folder, std::string(8, '\0') + "{}"), HasSubstr("header length"));
  EXPECT_EQ(refusal(folder, with_length("{}")), "accepted");
  EXPECT_THAT(refusal(folder, with_length("{}", "tail")), HasSubstr("after the last tensor"));
  EXPECT_THROW(SafetensorsFile(folder / "none"), Error);
  EXPECT_THROW(SafetensorsFile(folder.path()), Error);
}

TEST(Safetensors, EveryTruncationIsRefused) {
  TempFolder folder;
  const std::string whole = get_file(test::own_data("safetensors/all_types.safetensors"));
  for (size_t n = 0; n < whole.size(); ++n) {
    put_file(folder / "x", std::string_view(whole).substr(0, n));
    EXPECT_FALSE(open_all(folder / "x", n)) << n;
  }
}

/// A file of two small tensors and metadata; every byte of its length and header takes every ASCII value and some others.
TEST(Safetensors, EveryHeaderByteMayBeAnything) {
  TempFolder folder;
  const std::string whole = with_length(
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"I16","shape":[2,3],"data_offsets":[0,12]},"b":{"dtype":"BOOL","shape":[],"data_offsets":[12,13]}})",
      std::string(13, '\1'));
  ASSERT_TRUE((put_file(folder / "x", whole), open_all(folder / "x", whole.size())));
  int accepted = 0;
  for (size_t i = 0; i < whole.size() - 13; ++i)
    for (int value = 0; value < 256; value += value < 128 ? 1 : 16) {
      std::string changed = whole;
      changed[i] = static_cast<char>(value);
      put_file(folder / "x", changed);
      accepted += open_all(folder / "x", changed.size());
    }
  EXPECT_GT(accepted, 1000);  // letters of names and metadata are free
}

TEST(Safetensors, RandomDamageNeverReachesOutside) {
  TempFolder folder;
  const std::string whole = get_file(test::own_data("safetensors/all_types.safetensors"));
  const std::string_view pieces[] = {"[", "]", "{", "}", "\"", ":", ",", "18446744073709551615", "-1", "1e9", "\"shape\":", "null", "0", "9"};
  for (uint64_t trial = 0; trial < 20000; ++trial) {
    RandomStream random({7, trial});
    std::string changed = whole;
    for (uint64_t edits = 1 + random.below(4); edits > 0; --edits) {
      const size_t at = random.below(changed.size());
      switch (random.below(5)) {
        case 0:
          changed[at] = static_cast<char>(random.below(256));
          break;
        case 1:
          changed.erase(at, 1 + random.below(16));
          break;
        case 2:
          changed.insert(at, pieces[random.below(std::size(pieces))]);
          break;
        case 3:
          changed.replace(at, 1, pieces[random.below(std::size(pieces))]);
          break;
        default:
          changed.resize(at + 1);
          break;
      }
    }
    put_file(folder / "x", changed);
    open_all(folder / "x", changed.size());
  }
}

}  // namespace
}  // namespace fusion
