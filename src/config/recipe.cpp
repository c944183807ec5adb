// From files and overrides to checked stages.
#include <algorithm>

#include "fusion/config/files.h"
#include "fusion/config/interpolate.h"
#include "fusion/config/yaml.h"
#include "layers.h"

namespace fusion {

namespace {

bool is_file_name(const std::string& name) {
  const auto good = [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-' || c == '.'; };
  return !name.empty() && name[0] != '.' && name.size() <= 100 && std::all_of(name.begin(), name.end(), good);
}

Node take(Node& root, const std::string& key) {
  Node* present = root.child(key);
  Node taken = present ? *present : Node{};
  erase(root, key);
  return taken;
}

// ---- the list of stages ----

std::string stage_name(const Node& list, size_t index) {
  const Node& entry = list.children[index];
  if (entry.kind != Node::Kind::map) refuse(entry, "stages." + std::to_string(index), "is a map with a name and sections");
  const Node* name = entry.child("name");
  if (!name || name->kind != Node::Kind::scalar) refuse(entry, "stages." + std::to_string(index), "needs a name, as in name: stage1");
  if (!is_file_name(name->text) || item_index(name->text) >= 0)
    refuse(*name, "stages." + std::to_string(index) + ".name", "becomes a folder: letters, digits, '-', '_' and '.', not digits alone");
  for (size_t i = 0; i < index; ++i)
    if (stage_name(list, i) == name->text)
      refuse(*name, "stages." + std::to_string(index) + ".name", fmt::format("is '{}', as another stage's", name->text));
  return name->text;
}

// "stages.stage2.x" -> "stages.1.x"; other keys as they are.
std::string by_index(const std::string& key, const Node& list) {
  auto parts = split_key(key);
  if (parts.size() < 2 || parts[0] != "stages" || item_index(parts[1]) >= 0) return key;
  std::vector<std::string> names;
  for (size_t i = 0; i < list.children.size(); ++i) names.push_back(stage_name(list, i));
  const auto found = std::find(names.begin(), names.end(), parts[1]);
  FUSION_CHECK(found != names.end(), "config: command line: {}: there is no stage '{}'. There are: {}", key, parts[1], fmt::join(names, ", "));
  parts[1] = std::to_string(found - names.begin());
  return fmt::format("{}", fmt::join(parts, "."));
}

// Overrides of the list itself: stages=[...], stages+=[...], ~stages.1, stages.1={...}, stages.1.name=x.
void change_stage_list(const Schema& schema, std::vector<Override>& overrides, Node& user) {
  const auto is_structural = [](const Override& override) {
    const auto parts = split_key(override.key);
    return parts[0] == "stages" && (parts.size() < 3 || (parts.size() == 3 && parts[2] == "name"));
  };
  if (std::none_of(overrides.begin(), overrides.end(), is_structural)) return;
  if (!user.child("stages")) set(user, "stages", write_list({}));
  for (const Override& override : overrides)
    if (is_structural(override)) apply(override, by_index(override.key, *user.child("stages")), schema, {}, user);
  std::erase_if(overrides, is_structural);
}

// ---- one stage ----

class StageBuilder {
 public:
  StageBuilder(const std::vector<Override>& overrides, const Node& stages, std::string run_name)
      : overrides_(overrides), stages_(stages), run_name_(std::move(run_name)) {}

  /// All values of a stage; `index` is -1 when there is no list of stages.
  Node tree(const Node& user, int64_t index, const Schema& schema) const {
    Node released = with_profile(Profile::released, user, index, schema);
    Node probe = released;
    interpolate(probe);
    Profile profile = Profile::released;
    const Node* chosen = find(probe, "model.profile");
    if (chosen && !chosen->is_missing()) read_value(*chosen, "model.profile", {}, profile);
    return profile == Profile::released ? released : with_profile(profile, user, index, schema);
  }

 private:
  Node with_profile(Profile profile, const Node& user, int64_t index, const Schema& schema) const {
    const Node defaults = default_tree(profile);
    Node tree = defaults;
    merge(tree, user);
    check_keys(schema, tree);
    for (const Override& override : overrides_) {
      const std::string key = by_index(override.key, stages_);
      const auto parts = split_key(key);
      if (parts[0] != "stages") {
        apply(override, key, schema, defaults, tree);
      } else if (check_stage(override, item_index(parts[1])) == index) {
        apply(override, fmt::format("{}", fmt::join(parts.begin() + 2, parts.end(), ".")), schema, defaults, tree);
      }
    }
    check_keys(schema, tree);
    if (find(tree, "run.name")->text.empty()) set(tree, "run.name", Node::scalar(run_name_, true));
    return tree;
  }

  int64_t check_stage(const Override& override, int64_t index) const {
    FUSION_CHECK(index < static_cast<int64_t>(stages_.children.size()), "config: command line: {}: there are {} stages, counted from 0",
                 override.argument, stages_.children.size());
    return index;
  }

  static void check_keys(const Schema& schema, Node tree) {
    const Node vars = take(tree, "vars");
    if (vars.kind != Node::Kind::map && vars.kind != Node::Kind::null) refuse(vars, "vars", "is a map of free names");
    for (const Node& entry : tree.children) {
      const std::string near = schema.knows(entry.name) ? "" : nearest_name(entry.name, {"defaults", "stages", "vars", "resolved"});
      if (!near.empty()) refuse(entry, entry.name, fmt::format("is not a key; did you mean '{}'?", near));
    }
    schema.check_known(tree);
  }

  const std::vector<Override>& overrides_;
  const Node& stages_;
  std::string run_name_;
};

// Every key, list item that is a map, and key of such an item.
void add_origins(const Node& node, const std::string& key, Origins& origins) {
  for (size_t i = 0; i < node.children.size(); ++i) {
    const Node& child = node.children[i];
    const std::string name = join_key(key, node.kind == Node::Kind::list ? std::to_string(i) : child.name);
    const bool in_list = node.kind == Node::Kind::list, is_map = child.kind == Node::Kind::map;
    if (in_list == is_map) origins[name] = child.origin();
    add_origins(child, name, origins);
  }
}

void refuse_missing(const Node& tree, const std::vector<std::string>& causes) {
  std::string list;
  for (const std::string& key : causes) {
    const Node* node = find(tree, key);
    list += fmt::format("{}{} ({})", list.empty() ? "" : ", ", key, node ? node->origin() : "");
  }
  fail(ExitCode::usage,
       "config: values that only you can give (??"
       "?): {}. Add {}=VALUE to the command line or set it in a YAML file",
       list, causes.front());
}

Stage make_stage(const StageBuilder& builder, const Node& user, int64_t index, Missing missing, Origins& origins) {
  Stage stage;
  const Schema schema(stage.config);
  Node tree = builder.tree(user, index, schema);
  const auto causes = interpolate(tree);
  stage.missing = schema.read(tree);
  if (missing == Missing::refuse && !stage.missing.empty()) refuse_missing(tree, causes.empty() ? stage.missing : causes);
  FUSION_CHECK(is_file_name(stage.config.run.name), "config: run.name is '{}', which becomes a folder: letters, digits, '-', '_' and '.'",
               stage.config.run.name);
  stage.config.validate();
  check_effects(stage.config, tree);
  erase(tree, "vars");
  add_origins(tree, "", origins);
  return stage;
}

// data=stage2 names a mixture, not a config: it sets data.mixture.
void choose_mixture(Override& choice, const std::string& first_file) {
  if (choice.key != "data" || choice.kind == Override::Kind::erase || !choice.package.empty()) return;
  const fs::path file = fs::absolute(find_option(first_file, "data", choice.value->text));
  if (!read_yaml(file).child("datasets")) return;
  choice.is_choice = false;
  choice.kind = Override::Kind::set;
  choice.key = "data.mixture";
  choice.value->text = file.string();
  choice.value->quoted = true;
}

// The keys of each stage as the files give them: the common ones with the stage's own on top.
std::vector<std::pair<std::string, Node>> split_stages(const Node& user, const Node& list) {
  std::vector<std::pair<std::string, Node>> stages;
  for (size_t i = 0; i < list.children.size(); ++i) {
    const std::string name = stage_name(list, i);
    Node own = list.children[i];
    erase(own, "name");
    if (const Node* run = own.child("run")) refuse(*run, "run", "belongs to the whole recipe; set it above 'stages'");
    merge(stages.emplace_back(name, user).second, own);
  }
  if (stages.empty()) stages.emplace_back("", user);
  return stages;
}

}  // namespace

Recipe load_recipe(const std::vector<std::string>& files, const std::vector<std::string>& arguments, Missing missing) {
  FUSION_CHECK(!files.empty(), "config: no config file given. Name a YAML file first, then key=value overrides");
  std::vector<Override> overrides, choices;
  for (const std::string& argument : arguments) {
    Override override = parse_override(argument);
    if (override.is_choice) choose_mixture(override, files.front());
    (override.is_choice ? choices : overrides).push_back(std::move(override));
  }
  Node user = load_files(files, choices);
  Config any;
  change_stage_list(Schema(any), overrides, user);
  const Node list = take(user, "stages");
  if (list.kind != Node::Kind::null && list.kind != Node::Kind::list) refuse(list, "stages", "is a list of {name: ..., sections}");

  Recipe recipe;
  recipe.staged = !list.children.empty();
  const StageBuilder builder(overrides, list, fs::path(files.front()).stem().string());
  for (const auto& [name, own] : split_stages(user, list)) {
    const int64_t index = recipe.staged ? static_cast<int64_t>(recipe.stages.size()) : -1;
    try {
      recipe.stages.push_back(make_stage(builder, own, index, missing, recipe.origins.emplace_back()));
    } catch (const Error& error) {
      throw recipe.staged ? Error(error.code(), fmt::format("{} (in stage {})", error.what(), name)) : error;
    }
    Stage& stage = recipe.stages.back();
    stage.name = recipe.staged ? name : stage.config.run.name;
    const RunConfig& first = recipe.stages.front().config.run;
    FUSION_CHECK(stage.config.run.name == first.name && stage.config.run.dir == first.dir,
                 "config: stage {}: run.name and run.dir belong to the whole recipe; set them without stages.{}", name, name);
  }
  recipe.name = recipe.stages.front().config.run.name;
  recipe.text = print_recipe(recipe, PrintStyle::full);
  recipe.digest = recipe_digest(recipe);
  return recipe;
}

std::string run_path(const Recipe& recipe) {
  const std::string& given = recipe.stages.front().config.run.dir;
  return given.empty() ? "runs/" + recipe.name + "-" + recipe.digest : given;
}

}  // namespace fusion
