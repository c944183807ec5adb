#include "fusion/config/files.h"

#include <algorithm>
#include <set>

#include "fusion/config/schema.h"
#include "fusion/config/yaml.h"

namespace fusion {

namespace {

constexpr int kMostFiles = 1000;
constexpr size_t kDeepest = 32;

std::vector<std::string> options_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored))
    if (entry.path().extension() == ".yaml") names.push_back(entry.path().stem().string());
  std::sort(names.begin(), names.end());
  return names;
}

// Where the files of a group may stand, nearest first.
std::vector<fs::path> group_folders(const fs::path& file, const std::string& group) {
  std::vector<fs::path> folders;
  for (fs::path above = fs::absolute(file).lexically_normal().parent_path();; above = above.parent_path()) {
    folders.push_back(above / group);
    if (above == above.parent_path()) break;
  }
  folders.push_back(fs::path("configs") / group);
  return folders;
}

fs::path option_in(const fs::path& folder, const std::string& option) {
  const fs::path file = folder / (option.ends_with(".yaml") ? option : option + ".yaml");
  std::error_code ignored;
  if (fs::is_regular_file(file, ignored)) return file.lexically_normal();
  const auto names = options_in(folder);
  const std::string near = nearest_name(option, names);
  fail(ExitCode::usage, "config: command line: {} has no '{}'{} There are: {}", folder.lexically_normal().string(), option,
       near.empty() ? "." : "; did you mean '" + near + "'?", fmt::join(names, ", "));
}

bool is_true(const Node* node) { return node && node->kind == Node::Kind::scalar && !node->quoted && parse_boolean(node->text).value_or(false); }

class FileLoader {
 public:
  explicit FileLoader(const std::vector<Override>& choices) : choices_(choices), used_(choices.size()) {}

  Node load(const fs::path& file, Rank rank) {
    FUSION_CHECK(++loaded_ <= kMostFiles, "config: {}: more than {} files by 'defaults'", file.string(), kMostFiles);
    Node own = read_yaml(file, rank);
    const fs::path canonical = fs::canonical(file);
    const auto again = std::find(stack_.begin(), stack_.end(), canonical);
    FUSION_CHECK(again == stack_.end(), "config: {}: names itself through 'defaults' ({})", file.string(), chain(canonical));
    FUSION_CHECK(stack_.size() < kDeepest, "config: {}: 'defaults' go deeper than {} files ({})", file.string(), kDeepest, chain(canonical));
    if (is_true(own.child("resolved"))) own = read_yaml(file, Rank::preset);
    stack_.push_back(canonical);
    Node merged = load_defaults(own, file);
    if (loading_first_) {
      loading_first_ = false;
      append_choices(file, merged);
    }
    stack_.pop_back();
    erase(own, "defaults");
    erase(own, "resolved");
    merge(merged, own);
    merged.source = own.source;
    return merged;
  }

  void check_used() const {
    for (size_t i = 0; i < choices_.size(); ++i)
      FUSION_CHECK(used_[i], "config: command line: {}: no file of the group '{}' stands in 'defaults'. To start from one, write +{}=OPTION",
                   choices_[i].argument, choices_[i].key, choices_[i].key);
  }

 private:
  Node load_defaults(const Node& own, const fs::path& file) {
    Node merged;
    merged.kind = Node::Kind::map;
    const Node* list = own.child("defaults");
    if (!list || list->kind == Node::Kind::null) return merged;
    if (list->kind != Node::Kind::list) refuse(*list, "defaults", "is a list of YAML files, as in [../model/tiny.yaml]");
    const bool first = std::exchange(loading_first_, false);
    for (const Node& entry : list->children) {
      if (entry.kind != Node::Kind::scalar) refuse(entry, "defaults", "is a list of YAML files, as in [../model/tiny.yaml]");
      load_entry((file.parent_path() / entry.text).lexically_normal(), entry, merged);
    }
    loading_first_ = first;
    return merged;
  }

  void load_entry(fs::path path, const Node& entry, Node& merged) {
    std::string package;
    for (size_t i = 0; i < choices_.size(); ++i) {
      const Override& choice = choices_[i];
      if (choice.kind == Override::Kind::add || !is_of_group(path, choice.key)) continue;
      if (choice.kind == Override::Kind::erase) {
        if (choice.value && choice.value->text != path.stem()) continue;
        used_[i] = true;
        return;
      }
      used_[i] = true;
      path = option_in(path.parent_path(), choice.value->text);
      package = choice.package;
    }
    std::error_code ignored;
    if (!fs::is_regular_file(path, ignored)) refuse(entry, "defaults", fmt::format("names {}, which is no file", path.string()));
    merge_below(merged, package, load(path, Rank::preset));
  }

  void append_choices(const fs::path& file, Node& merged) {
    for (size_t i = 0; i < choices_.size(); ++i) {
      const Override& choice = choices_[i];
      if (choice.kind != Override::Kind::add && (choice.kind != Override::Kind::force || used_[i])) continue;
      used_[i] = true;
      merge_below(merged, choice.package, load(find_option(file, choice.key, choice.value->text), Rank::preset));
    }
  }

  static void merge_below(Node& merged, const std::string& package, Node content) {
    if (!package.empty() && package != "_global_") {
      Node outer;
      outer.kind = Node::Kind::map;
      outer.source = content.source;
      set(outer, package, std::move(content));
      content = std::move(outer);
    }
    merge(merged, content);
  }

  // configs/model/tiny.yaml is of group "model", configs/model/clip/b.yaml of "model/clip".
  static bool is_of_group(const fs::path& file, const std::string& group) {
    const std::string folder = "/" + fs::absolute(file).lexically_normal().parent_path().string();
    return folder.ends_with("/" + group);
  }

  std::string chain(const fs::path& last) const {
    std::string out;
    for (const fs::path& file : stack_) out += file.filename().string() + " -> ";
    return out + last.filename().string();
  }

  const std::vector<Override>& choices_;
  std::vector<bool> used_;
  std::vector<fs::path> stack_;
  int loaded_ = 0;
  bool loading_first_ = true;
};

}  // namespace

fs::path find_option(const fs::path& file, const std::string& group, const std::string& option) {
  const std::vector<fs::path> folders = group_folders(file, group);
  std::error_code ignored;
  const std::string name = option.ends_with(".yaml") ? option : option + ".yaml";
  const auto holds =
      std::find_if(folders.begin(), folders.end(), [&](const fs::path& folder) { return fs::is_regular_file(folder / name, ignored); });
  if (holds != folders.end()) return (*holds / name).lexically_normal();
  const auto near = std::find_if(folders.begin(), folders.end(), [&](const fs::path& folder) { return !options_in(folder).empty(); });
  FUSION_CHECK(near != folders.end(), "config: command line: {}={}: there is no folder {}/ beside {} or above it, nor configs/{}/", group, option,
               group, file.string(), group);
  return option_in(*near, option);
}

std::vector<std::string> group_options(const fs::path& file, const std::string& group) {
  for (const fs::path& folder : group_folders(file, group))
    if (auto names = options_in(folder); !names.empty()) return names;
  return {};
}

Node load_files(const std::vector<std::string>& files, const std::vector<Override>& choices) {
  FUSION_CHECK(!files.empty(), "config: no config file given. Name a YAML file first, then key=value overrides");
  FileLoader loader(choices);
  Node merged;
  merged.kind = Node::Kind::map;
  for (const std::string& file : files) merge(merged, loader.load(file, Rank::own));
  loader.check_used();
  return merged;
}

}  // namespace fusion
