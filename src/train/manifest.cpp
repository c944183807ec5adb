#include "manifest.h"

#include "fusion/base/error.h"

#include <algorithm>
#include <charconv>

namespace fusion {
namespace {

constexpr const char* kFormat = "fusion-checkpoint";
constexpr int64_t kVersion = 1;
constexpr const char* kSelfDigest = "manifest_sha256";

ManifestFile read_file_entry(const Json& entry) {
  ManifestFile file{json_get<std::string>(entry, "name", kManifest), json_get<uint64_t>(entry, "size", kManifest), {}};
  if (entry.contains("sha256")) {
    file.pieces.push_back({0, file.size, json_get<std::string>(entry, "sha256", kManifest)});
    return file;
  }
  uint64_t at = 0;
  for (const Json& piece : entry.at("pieces")) {
    file.pieces.push_back({piece.at(0).get<uint64_t>(), piece.at(1).get<uint64_t>(), piece.at(2).get<std::string>()});
    FUSION_CHECK(file.pieces.back().begin == at, "{}: the pieces of {} leave a gap at byte {}", kManifest, file.name, at);
    at = file.pieces.back().end;
  }
  FUSION_CHECK(at == file.size, "{}: the pieces of {} end at byte {} of {}", kManifest, file.name, at, file.size);
  return file;
}

}  // namespace

uint64_t Manifest::bytes() const {
  uint64_t sum = 0;
  for (const ManifestFile& file : files) sum += file.size;
  return sum;
}

std::string manifest_text(const Manifest& manifest) {
  Json json = {{"format", kFormat}, {"version", kVersion}, {"step", manifest.step}, {"save_id", manifest.save_id}, {"world_size", manifest.world}};
  json["digests"] = Json::object();
  for (const auto& [what, digest] : manifest.digests) json["digests"][what] = digest;
  json["files"] = Json::array();
  for (const ManifestFile& file : manifest.files) {
    Json entry = {{"name", file.name}, {"size", file.size}};
    if (file.pieces.size() == 1) {
      entry["sha256"] = file.pieces[0].sha256;
    } else {
      for (const Piece& piece : file.pieces) entry["pieces"].push_back({piece.begin, piece.end, piece.sha256});
    }
    json["files"].push_back(std::move(entry));
  }
  json[kSelfDigest] = sha256_text(dump_json(json));
  return dump_json(json);
}

Manifest read_manifest(const fs::path& folder) {
  const std::string text = read_file(folder / kManifest, uint64_t{64} << 20);
  Json json = parse_json(text, kManifest);
  const auto self = json_get<std::string>(json, kSelfDigest, kManifest);
  // The text must be the one that the writer makes: then no byte of it can have changed unseen.
  const bool same_text = dump_json(json) == text;
  json.erase(kSelfDigest);
  FUSION_CHECK(same_text && sha256_text(dump_json(json)) == self, "{}: SHA-256 differs from its own (file damaged)", kManifest);
  FUSION_CHECK(json_get<std::string>(json, "format", kManifest) == kFormat, "{}: format is not '{}'", kManifest, kFormat);
  const auto version = json_get<int64_t>(json, "version", kManifest);
  FUSION_CHECK(version == kVersion, "{}: version {}, this program reads {}", kManifest, version, kVersion);

  Manifest manifest;
  manifest.step = json_get<int64_t>(json, "step", kManifest);
  FUSION_CHECK(step_of(folder.filename().string()) == manifest.step, "{}: step {} in a folder named {}", kManifest, manifest.step,
               folder.filename().string());
  manifest.save_id = json_get<std::string>(json, "save_id", kManifest);
  for (const auto& [what, digest] : json.at("digests").items()) manifest.digests[what] = json_get<std::string>(json["digests"], what, kManifest);
  manifest.world = json_get<int64_t>(json, "world_size", kManifest);
  for (const Json& entry : json.at("files")) manifest.files.push_back(read_file_entry(entry));
  return manifest;
}

std::string step_name(int64_t step) { return fmt::format("step-{:08}", step); }

std::optional<int64_t> step_of(const std::string& name) {
  int64_t step = 0;
  if (!name.starts_with("step-")) return std::nullopt;
  const auto [end, error] = std::from_chars(name.data() + 5, name.data() + name.size(), step);
  if (error != std::errc() || step < 0 || name != step_name(step)) return std::nullopt;
  return step;
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) names.push_back(it->path().filename().string());
  if (error && error != std::errc::no_such_file_or_directory) fail(ExitCode::io, "checkpoint: read folder {}: {}", folder.string(), error.message());
  std::sort(names.begin(), names.end());
  return names;
}

void remove_checkpoint(const fs::path& folder) {
  if (fs::exists(folder / kManifest)) {
    remove_tree(folder / kManifest);
    sync_directory(folder);
  }
  remove_tree(folder);
}

}  // namespace fusion
