// Reference pictures: decoded bytes, tiles, normalised values, and files that must be refused (format: README of the reference data).
#include "fusion/base/error.h"
#include "fusion/base/json.h"
#include "fusion/image/image.h"
#include "fusion/study/verify.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <numeric>
#include <optional>

namespace fusion {
namespace {

constexpr int kTiles = 5;

struct Line {
  Json json;
  std::string where;  // file:line for messages
};

std::vector<Line> read_lines(const fs::path& path) {
  const std::string text = read_file(path);
  std::vector<Line> lines;
  for (size_t at = 0, number = 1; at < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string where = fmt::format("{}:{}", path.string(), number);
    if (end > at) lines.push_back({parse_json(std::string_view(text).substr(at, end - at), where), where});
    at = end + 1;
  }
  return lines;
}

/// A decoded file, or why it was refused.
struct Decoded {
  std::optional<Image> image;
  std::string reason;
};

Decoded decode_file(const fs::path& path) {
  const std::string file = read_file(path);
  try {
    return {decode_image(std::as_bytes(std::span(file))), {}};
  } catch (const Error& error) {
    return {std::nullopt, error.what()};
  }
}

std::string sha256_bytes(std::span<const uint8_t> bytes) { return sha256_text({reinterpret_cast<const char*>(bytes.data()), bytes.size()}); }

std::span<const uint8_t> tile_of(std::span<const uint8_t> tiles, size_t k) {
  return tiles.subspan(k * (tiles.size() / kTiles), tiles.size() / kTiles);
}

/// A row for `total` items of which `wrong` differ.
void check_exact(VerifyReport& report, const std::string& where, const std::string& quantity, int64_t total, int64_t wrong, std::string note = {}) {
  report.check(where, quantity, static_cast<double>(total - wrong), static_cast<double>(total), static_cast<double>(wrong), 0,
               wrong ? std::move(note) : "");
}

class ImageCase {
 public:
  explicit ImageCase(const fs::path& folder) : folder_(folder) {}

  VerifyReport run() {
    find_tile_pictures();
    for (const Line& line : read_lines(folder_ / "good.jsonl")) good_file(line);
    for (const Line& line : read_lines(folder_ / "broken.jsonl")) broken_file(line);
    tables();
    return std::move(report_);
  }

 private:
  void good_file(const Line& line) {
    const auto name = json_get<std::string>(line.json, "file", line.where), format = json_get<std::string>(line.json, "format", line.where);
    const Decoded decoded = decode_file(folder_ / "files" / name);
    static const std::vector<std::string> read_formats = {"JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP"};
    if (std::find(read_formats.begin(), read_formats.end(), format) == read_formats.end()) {
      if (decoded.image)
        check_exact(report_, name, "refused", 1, 1, format + " was read as another format");
      else
        report_.skip(name, "rgb_sha256", decoded.reason);
      return;
    }
    if (!decoded.image) {
      check_exact(report_, name, "rgb_sha256", 1, 1, decoded.reason);
      return;
    }
    const Image& image = *decoded.image;
    const auto width = json_get<int>(line.json, "width", line.where), height = json_get<int>(line.json, "height", line.where);
    check_exact(report_, name, "size", 2, (image.width != width) + (image.height != height),
                fmt::format("{}x{}, not {}x{}", image.width, image.height, width, height));
    check_exact(report_, name, "rgb_sha256", 1, sha256_bytes(image.rgb) != json_get<std::string>(line.json, "rgb_sha256", line.where));
    for (const int side : {384, 336}) check_tiles(line, name, image, side);
    check_other_order(name, image);
    if (line.json.contains("tiles_384_unconverted"))
      report_.skip(name, "tiles_384_unconverted", "information: pictures are converted to RGB before they are resized");
    if (line.json.contains("normalised")) check_normalised(line, name, image);
  }

  void check_tiles(const Line& line, const std::string& name, const Image& image, int side) {
    const std::string key = fmt::format("tiles_{}", side);
    const std::vector<uint8_t> tiles = make_tiles(image, side);
    compare_tiles(name, key, tiles, json_get<std::vector<std::string>>(line.json, key, line.where));
    if (side != 384) return;
    for (const auto& [k, path] : tile_pictures_[name]) {
      const Decoded picture = decode_file(path);
      const auto ours = tile_of(tiles, k);
      int64_t wrong = static_cast<int64_t>(ours.size());
      if (picture.image && picture.image->rgb.size() == ours.size())
        wrong = std::inner_product(ours.begin(), ours.end(), picture.image->rgb.begin(), int64_t{0}, std::plus<>(), std::not_equal_to<>());
      check_exact(report_, name, fmt::format("tile {} bytes", k), static_cast<int64_t>(ours.size()), wrong, picture.reason);
    }
  }

  void compare_tiles(const std::string& name, const std::string& quantity, std::span<const uint8_t> tiles, const std::vector<std::string>& hashes) {
    FUSION_CHECK(hashes.size() == kTiles, "verify: {}: {} has {} tiles, not 5", name, quantity, hashes.size());
    std::string wrong;
    for (size_t k = 0; k < kTiles; ++k)
      if (sha256_bytes(tile_of(tiles, k)) != hashes[k]) wrong += fmt::format("{}{}", wrong.empty() ? "tiles " : ", ", k);
    check_exact(report_, name, quantity, kTiles, std::count(wrong.begin(), wrong.end(), ',') + !wrong.empty(), wrong);
  }

  // other_pillow.json lists the files whose tiles differ when Pillow 13 resizes.
  void check_other_order(const std::string& name, const Image& image) {
    const fs::path path = folder_ / "other_pillow.json";
    if (!other_ && fs::exists(path)) other_ = read_json(path);
    if (!other_) return;
    for (const Json& row : json_list(*other_, "differing", path.string())) {
      if (json_get<std::string>(row, "file", path.string()) != name) continue;
      for (const int side : {384, 336})
        compare_tiles(name, fmt::format("tiles_{} pillow13", side), make_tiles(image, side, ResizeOrder::pillow13),
                      json_get<std::vector<std::string>>(row, fmt::format("tiles_{}", side), path.string()));
    }
  }

  static const Json& json_list(const Json& object, const std::string& key, const std::string& where) {
    FUSION_CHECK(object.contains(key) && object[key].is_array(), "verify: {}: no list '{}'", where, key);
    return object[key];
  }

  void check_normalised(const Line& line, const std::string& name, const Image& image) {
    for (const auto& [processor, expected] : line.json["normalised"].items()) {
      const auto shape = json_get<std::vector<int64_t>>(expected, "shape", line.where);
      FUSION_CHECK(shape.size() == 4 && shape[0] == kTiles, "verify: {}: {} is not [5, 3, R, R]", line.where, processor);
      const std::vector<uint8_t> tiles = make_tiles(image, static_cast<int>(shape[3]));
      std::vector<float> values(tiles.size());
      normalize_tiles(tiles, normalize_table(processor.starts_with("clip") ? TowerType::clip : TowerType::siglip), values);

      const auto at = json_get<std::vector<size_t>>(expected, "at", line.where);
      const auto bits = json_get<std::vector<uint32_t>>(expected, "bits", line.where);
      int64_t wrong = 0;
      for (size_t i = 0; i < at.size(); ++i) wrong += std::bit_cast<uint32_t>(values.at(at[i])) != bits.at(i);
      check_exact(report_, name, processor + " values", static_cast<int64_t>(at.size()), wrong);
      const std::string hash = sha256_text({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
      check_exact(report_, name, processor + " sha256", 1, hash != json_get<std::string>(expected, "sha256", line.where));
    }
  }

  void broken_file(const Line& line) {
    const auto name = json_get<std::string>(line.json, "file", line.where);
    const Decoded decoded = decode_file(folder_ / "files" / name);
    if (json_get<bool>(line.json, "detectable", line.where)) {
      check_exact(report_, name, "refused", 1, decoded.image.has_value(), "a damaged file was read");
    } else if (decoded.image && line.json["training"].value("loads", false)) {
      check_exact(report_, name, "rgb_sha256", 1,
                  sha256_bytes(decoded.image->rgb) != json_get<std::string>(line.json["training"], "rgb_sha256", line.where));
    } else {
      report_.skip(name, "refused", "no decoder notices this damage");
    }
  }

  void tables() {
    const fs::path path = folder_ / "normalise.json";
    const Json json = read_json(path);
    for (const TowerType tower : {TowerType::siglip, TowerType::clip}) {
      const std::string name = enum_name(tower);
      const NormalizeTable& table = normalize_table(tower);
      const Json& channels = json_list(json, name, path.string());
      int64_t wrong = 0;
      for (size_t c = 0; c < 3; ++c)
        for (size_t v = 0; v < 256; ++v) wrong += std::bit_cast<uint32_t>(table.value[c][v]) != channels.at(c).at(v).get<uint32_t>();
      check_exact(report_, "normalise.json", name, 3 * 256, wrong);
    }
  }

  // tiles/NAME.K.png
  void find_tile_pictures() {
    if (!fs::is_directory(folder_ / "tiles")) return;
    for (const auto& entry : fs::directory_iterator(folder_ / "tiles")) {
      const fs::path stem = entry.path().stem();
      const std::string digit = stem.extension().string();
      FUSION_CHECK(entry.path().extension() == ".png" && digit.size() == 2 && digit[1] >= '0' && digit[1] < '0' + kTiles,
                   "verify: {} is no NAME.K.png", entry.path().string());
      tile_pictures_[stem.stem().string()][static_cast<size_t>(digit[1] - '0')] = entry.path();
    }
  }

  fs::path folder_;
  VerifyReport report_;
  std::optional<Json> other_;
  std::map<std::string, std::map<size_t, fs::path>> tile_pictures_;
};

}  // namespace

VerifyReport verify_image(const fs::path& folder) {
  for (const char* part : {"good.jsonl", "broken.jsonl", "normalise.json", "files"})
    FUSION_CHECK(fs::exists(folder / part), "verify: {}: no {}; a folder of kind image holds it", folder.string(), part);
  return ImageCase(folder).run();
}

}  // namespace fusion
