#include "fusion/model/io/folder.h"

#include "fusion/base/error.h"

#include <algorithm>
#include <map>
#include <random>

namespace fusion {
namespace {

/// Stored by old savers, read by nothing: rotary frequencies and CLIP's position numbers.
bool is_ignored(const std::string& name) { return name.ends_with(".rotary_emb.inv_freq") || name.ends_with("embeddings.position_ids"); }

std::optional<fs::path> tower_config(const fs::path& folder) {
  for (const fs::path& path : {folder / "tower" / "config.json", folder / ".." / "tower" / "config.json"})
    if (fs::exists(path)) return path;
  return std::nullopt;
}

/// A new folder that only its owner can enter; removed unless commit() renames it.
class StagedFolder {
 public:
  explicit StagedFolder(const fs::path& target) : target_(target) {
    const fs::path parent = target.has_parent_path() ? target.parent_path() : fs::path(".");
    const std::string prefix = "." + target.filename().string() + ".partial-";
    make_directories(parent);
    for (const auto& item : fs::directory_iterator(parent))  // left by a process that was killed
      if (item.path().filename().string().starts_with(prefix)) remove_tree(item.path());
    path_ = parent / fmt::format("{}{:08x}", prefix, std::random_device{}());
    make_directories(path_);
    fs::permissions(path_, fs::perms::owner_all);
  }
  ~StagedFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  StagedFolder(const StagedFolder&) = delete;
  StagedFolder& operator=(const StagedFolder&) = delete;

  const fs::path& path() const { return path_; }
  void commit(bool replace) {
    sync_directory(path_);
    if (replace && fs::exists(target_)) {
      fs::path old = path_;
      old += "-old";  // has the prefix, so that the next writer removes it if we are killed before we do
      rename_durably(target_, old);
      rename_durably(path_, target_);
      remove_tree(old);
    } else {
      rename_durably(path_, target_);
    }
    path_.clear();
  }

 private:
  fs::path target_, path_;
};

void append(std::string& text, const std::string& title, const std::vector<std::string>& lines, size_t most) {
  if (lines.empty()) return;
  text += fmt::format("\n  {} {}:", lines.size(), title);
  for (size_t i = 0; i < std::min(most, lines.size()); ++i) text += "\n    " + lines[i];
  if (lines.size() > most) text += fmt::format("\n    and {} more", lines.size() - most);
}

}  // namespace

FolderConfig load_folder_config(const fs::path& folder) {
  const fs::path file = folder / "config.json";
  const Json config = read_json(file);
  std::optional<Json> tower;
  if (const auto path = tower_config(folder); path && config.is_object() && !config.contains("fusion")) tower = read_json(*path);
  FolderConfig result = parse_folder_config(config, tower ? &*tower : nullptr, file.string());
  if (const fs::path generation = folder / "generation_config.json"; fs::exists(generation)) {
    result.generation = read_json(generation);
    FUSION_CHECK(result.generation.is_object(), "{}: not an object", generation.string());
    result.eos_token_ids = parse_eos(config, result.generation, generation.string());
  }
  return result;
}

std::string TensorDifferences::text(size_t most) const {
  std::string text;
  append(text, "tensors missing", missing, most);
  append(text, "tensors that the model does not have", extra, most);
  append(text, "tensors of another shape", shapes, most);
  append(text, "tensors that are no floats", types, most);
  return text;
}

TensorDifferences compare_tensors(const Weights& weights, const std::vector<NamedShape>& table) {
  TensorDifferences differences;
  std::map<std::string, const std::vector<int64_t>*> needed;
  for (const auto& [name, shape] : table) {
    needed.emplace(name, &shape);
    if (!weights.contains(name)) differences.missing.push_back(name);
  }
  for (const auto& [name, file] : weights.names()) {
    const auto it = needed.find(name);
    if (it == needed.end()) {
      if (!is_ignored(name)) differences.extra.push_back(name_text(name));
      continue;
    }
    const TensorSpec spec = weights.spec(name);
    if (spec.shape != *it->second)
      differences.shapes.push_back(fmt::format("{}: {} in the folder, {} by config.json", name, shape_text(spec.shape), shape_text(*it->second)));
    if (!at::isFloatingType(spec.dtype)) differences.types.push_back(fmt::format("{}: {}", name, dtype_name(spec.dtype)));
  }
  return differences;
}

Weights open_weights(const fs::path& folder, const ModelConfig& config) {
  Weights weights(folder);
  const TensorDifferences differences = compare_tensors(weights, parameter_table(config));
  if (!differences.none()) fail(ExitCode::data, "weights: {} does not fit its config.json:{}", folder.string(), differences.text());
  return weights;
}

std::vector<TensorSpec> specs_of(const std::vector<NamedShape>& table, at::ScalarType dtype) {
  std::vector<TensorSpec> specs;
  specs.reserve(table.size());
  for (const auto& [name, shape] : table) specs.push_back({name, dtype, shape});
  return specs;
}

std::vector<WrittenFile> write_folder(const fs::path& folder, const FolderContent& content) {
  const fs::path target = folder.has_filename() ? folder : folder.parent_path();  // "out/" is "out"
  FUSION_CHECK(!target.filename().empty() && target.filename() != "." && target.filename() != "..", "model: '{}' is no name for a new folder",
               folder.string());
  FUSION_CHECK(content.replace || !fs::exists(target) || (fs::is_directory(target) && fs::is_empty(target)),
               "model: {} exists already; choose another folder or remove it", target.string());
  const std::string config = dump_json(folder_config_json(content.config));  // before any work: it may refuse
  const std::string generation = dump_json(generation_config_json(content.config));

  StagedFolder staged(target);
  uint64_t bytes = 1 << 20;  // headers and small files
  for (const TensorSpec& tensor : content.tensors) bytes += tensor.bytes();
  if (const uint64_t room = free_bytes(staged.path()); room < bytes)
    fail(ExitCode::io, "model: {} needs {} bytes, the file system has {} left", target.string(), bytes, room);
  write_file(staged.path() / "config.json", config);
  write_file(staged.path() / "generation_config.json", generation);
  write_file(staged.path() / "preprocessor_config.json", dump_json(preprocessor_config_json(content.config.model.tower)));
  if (content.more_files) content.more_files(staged.path());
  std::map<std::string, WrittenFile> files;
  for (WrittenFile& file : write_weights(staged.path(), content.tensors, content.source, content.shard_bytes))
    files.emplace(file.name, std::move(file));
  for (const auto& item : fs::recursive_directory_iterator(staged.path())) {
    const std::string name = item.path().lexically_relative(staged.path()).string();
    if (item.is_regular_file() && !files.contains(name)) files.emplace(name, WrittenFile{name, item.file_size(), sha256_file(item.path())});
  }
  staged.commit(content.replace);

  std::vector<WrittenFile> result;
  for (auto& [name, file] : files) result.push_back(std::move(file));
  return result;
}

Json preprocessor_config_json(const TowerConfig& tower) {
  Json config = {{"do_convert_rgb", true},
                 {"do_normalize", true},
                 {"do_rescale", true},
                 {"do_resize", true},
                 {"image_mean", {0.5, 0.5, 0.5}},
                 {"image_processor_type", "SiglipImageProcessor"},
                 {"image_std", {0.5, 0.5, 0.5}},
                 {"resample", 3},  // bicubic, also for SigLIP2 (formats.md 5.1)
                 {"rescale_factor", 1.0 / 255.0},
                 {"size", {{"height", tower.image_size}, {"width", tower.image_size}}}};
  if (tower.type == TowerType::clip) {
    config["image_processor_type"] = "CLIPImageProcessor";
    config["crop_size"] = config["size"];
    config["do_center_crop"] = true;
    config["size"] = {{"shortest_edge", tower.image_size}};
    config["image_mean"] = {0.48145466, 0.4578275, 0.40821073};
    config["image_std"] = {0.26862954, 0.26130258, 0.27577711};
  }
  return config;
}

}  // namespace fusion
