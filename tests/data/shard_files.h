// A small LLaVA folder, and the same rows as tar and MDS shards that the tests write byte by byte.
#pragma once

#include "fusion/base/json.h"
#include "fusion/data/loader.h"
#include "fusion/data/tar.h"

#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <cstring>

namespace fusion::test {

inline std::string tar_member(const std::string& name, const std::string& content) {
  return tar_header(name, content.size()) + content + std::string(tar_padding(content.size()));
}

/// Rows of all sorts with their pictures, bad ones among them.
struct LlavaFolder {
  struct Row {
    std::string text, image;  // image: as the row calls it
  };
  fs::path folder;
  std::vector<Row> rows;

  /// Writes pictures and data.jsonl.
  explicit LlavaFolder(const fs::path& where, int count = 30) : folder(where) {
    make_directories(folder / "p");
    std::string lines;
    for (int i = 0; i < count; ++i) {
      const bool picture = i % 3 != 0;
      const std::string name = fmt::format("p/{}.{}", i, i % 2 ? "png" : "jpg");
      Image image{8 + i % 5, 9, std::vector<uint8_t>(static_cast<size_t>(8 + i % 5) * 9 * 3, static_cast<uint8_t>(i * 7))};
      if (picture && i != 4) write_file(folder / name, i % 2 ? encode_png(image) : encode_jpeg(image), Sync::no);  // 4: missing
      if (i == 8) write_file(folder / name, "no picture", Sync::no);
      Json row = {{"id", fmt::format("row-{}", i)}};
      if (picture) row["image"] = name;
      row["conversations"] = {
          {{"from", "human"}, {"value", fmt::format("{}what is the number {}", picture ? "<image>\n" : "", i)}},
          {{"from", i == 9 ? "human" : "gpt"}, {"value", std::string(static_cast<size_t>(1 + i % 4), 'x') + " it is red \u00E9"}}};
      rows.push_back({dump_json(row, -1), picture ? name : ""});
      lines += rows.back().text + "\n";
    }
    write_file(folder / "data.jsonl", lines, Sync::no);
  }

  /// The content of a row's picture; empty when there is none.
  std::string picture(const Row& row) const {
    std::error_code ignored;
    return !row.image.empty() && fs::exists(folder / row.image, ignored) ? read_file(folder / row.image) : "";
  }

  std::string tar(size_t begin, size_t end) const {
    std::string text;
    for (size_t i = begin; i < end; ++i) {
      const std::string key = fmt::format("d/{:05}", i), bytes = picture(rows[i]);
      if (i % 2) text += tar_member(key + ".json", rows[i].text);
      if (!bytes.empty()) text += tar_member(key + fs::path(rows[i].image).extension().string(), bytes);
      if (i % 2 == 0) text += tar_member(key + ".json", rows[i].text);
    }
    return text + std::string(tar_end());
  }

  /// A row's MDS column values by name, in the names' order.
  using Columns = std::vector<std::pair<std::string, std::string>>;  // name, encoding
  std::string mds(size_t begin, size_t end, const Columns& columns) const {
    const auto u32 = [](uint64_t value) {
      const auto small = static_cast<uint32_t>(value);
      return std::string(reinterpret_cast<const char*>(&small), 4);
    };
    Json header = {{"column_encodings", Json::array()},
                   {"column_names", Json::array()},
                   {"column_sizes", Json::array()},
                   {"compression", nullptr},
                   {"format", "mds"},
                   {"hashes", Json::array()},
                   {"size_limit", 67108864},
                   {"version", 2}};
    for (const auto& [name, encoding] : columns) {
      header["column_names"].push_back(name);
      header["column_encodings"].push_back(encoding);
      header["column_sizes"].push_back(encoding == "int" ? Json(8) : Json());
    }
    const std::string config = dump_json(header, -1);
    std::string offsets, samples;
    for (size_t i = begin; i < end; ++i) {
      const Json row = parse_json(rows[i].text, "row");
      offsets += u32(4 * (end - begin + 2) + config.size() + samples.size());
      std::string sizes, values;
      for (const auto& [name, encoding] : columns) {
        std::string value = name == "json"    ? rows[i].text
                            : name == "image" ? picture(rows[i])
                            : name == "id"    ? std::string(row["id"])
                                              : dump_json(row["conversations"], -1);
        if (name == "image" && value.empty() && !rows[i].image.empty() && columns[0].first == "conversations")
          value = "missing";  // no column names it
        if (name == "number") value = std::string(8, '\1');
        if (encoding != "int") sizes += u32(value.size());
        values += value;
      }
      samples += sizes + values;
    }
    offsets += u32(4 * (end - begin + 2) + config.size() + samples.size());
    return u32(end - begin) + offsets + config + samples;
  }
};

/// All rows as batches of three, and what was left out of them.
inline std::vector<LoadedBatch> load_all(const std::shared_ptr<const Mixture>& mixture, const std::shared_ptr<const ConversationEncoder>& encoder) {
  const auto plan = [&, next = int64_t{0}]() mutable -> std::optional<Loader::Micro> {
    Loader::Micro micro;
    for (const int64_t end = std::min(mixture->size(), next + 3); next < end; ++next) micro.items.push_back({next, next});
    return micro.items.empty() ? std::nullopt : std::optional(micro);
  };
  Loader loader(mixture, encoder, {.sample = {.max_length = 200, .image_size = 8}, .workers = 2, .prefetch = 4}, plan);
  std::vector<LoadedBatch> batches;
  while (auto batch = loader.next()) batches.push_back(std::move(*batch));
  return batches;
}

inline void expect_equal(const std::vector<LoadedBatch>& one, const std::vector<LoadedBatch>& other) {
  ASSERT_EQ(one.size(), other.size());
  for (size_t i = 0; i < one.size(); ++i) {
    const Batch &a = one[i].batch, &b = other[i].batch;
    EXPECT_EQ(a.ids, b.ids) << i;
    EXPECT_EQ(a.positions, b.positions) << i;
    EXPECT_EQ(a.input_ids, b.input_ids) << i;
    EXPECT_EQ(a.labels, b.labels) << i;
    EXPECT_EQ(a.tokens.at, b.tokens.at) << i;
    EXPECT_EQ(a.instruct, b.instruct) << i;
    EXPECT_EQ(a.has_tiles, b.has_tiles) << i;
    EXPECT_TRUE(at::equal(a.tiles, b.tiles)) << i;
    ASSERT_EQ(one[i].rejected.size(), other[i].rejected.size()) << i;
    for (size_t r = 0; r < one[i].rejected.size(); ++r) {
      const auto word = [](const Rejection& rejection) { return rejection.id + " " + rejection.reason.substr(0, rejection.reason.find(':')); };
      EXPECT_EQ(word(one[i].rejected[r]), word(other[i].rejected[r]));
    }
  }
}

}  // namespace fusion::test
