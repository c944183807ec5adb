#include <algorithm>

#include "fusion/config/yaml.h"
#include "layers.h"

namespace fusion {

namespace {

// The config of a stage as values, with ??? where nothing was given.
Node stage_tree(const Stage& stage) {
  Config copy = stage.config;
  Node tree = Schema(copy).write();
  for (const std::string& key : stage.missing) set(tree, key, Node::scalar("???", false));
  return tree;
}

std::string origin_of(const Recipe& recipe, const std::string& key) {
  size_t stage = 0;
  std::string name = key;
  if (key.starts_with("stages.")) {  // stages.1.train.epochs
    const size_t dot = key.find('.', 7);
    stage = std::stoul(key.substr(7, dot - 7));
    name = dot == std::string::npos ? "" : key.substr(dot + 1);
  }
  const auto found = recipe.origins.at(stage).find(name);
  return found == recipe.origins[stage].end() ? "" : found->second;
}

std::string to_yaml(const Recipe& recipe, bool all, const std::function<std::string(const std::string&)>& comment) {
  return "resolved: true\n" + write_yaml(recipe_tree(recipe, all), comment);
}

}  // namespace

Node recipe_tree(const Recipe& recipe, bool all) {
  const size_t count = recipe.stages.size();
  std::vector<Node> trees, defaults, own;
  for (const Stage& stage : recipe.stages) {
    trees.push_back(stage_tree(stage));
    defaults.push_back(default_tree(stage.config.model.profile));
    Node& entry = own.emplace_back();
    set(entry, "name", Node::scalar(stage.name, true));
  }
  Node root;
  root.kind = Node::Kind::map;
  Config any;
  const Schema schema(any);
  for (const Field& field : schema.fields()) {
    const auto value = [&](size_t i) -> const Node& { return *find(trees[i], field.key); };
    const auto is_default = [&](size_t i) { return value(i).same_value(*find(defaults[i], field.key)); };
    bool shared = true, untouched = true;
    for (size_t i = 0; i < count; ++i) {
      shared = shared && value(i).same_value(value(0));
      untouched = untouched && is_default(i);
    }
    if (shared && (all || !untouched)) set(root, field.key, value(0));
    for (size_t i = 0; !shared && i < count; ++i)
      if (all || !is_default(i)) set(own[i], field.key, value(i));
  }
  if (recipe.staged) set(root, "stages", write_list(std::move(own)));
  return root;
}

std::string print_recipe(const Recipe& recipe, PrintStyle style) {
  if (style == PrintStyle::origin) return to_yaml(recipe, true, [&](const std::string& key) { return origin_of(recipe, key); });
  return to_yaml(recipe, style == PrintStyle::full, {});
}

std::string recipe_digest(const Recipe& recipe) {
  Recipe kept = recipe;
  for (Stage& stage : kept.stages) {
    stage.config.run = {};
    stage.config.log = {};
    // How the work is spread does not make another run of it: one may go on with more processes or less memory.
    stage.config.runtime = {};
    TrainConfig& train = stage.config.train;
    train.zero = 0;
    train.shard_group = {};
    train.accumulate = {};
    train.recompute = {};
    const bool micro_batches_matter = stage.config.loss.average != Average::token || stage.config.data.group != Grouping::none ||
                                      stage.config.card.draw == Draw::micro_step || stage.config.neighbours_matter();
    if (!micro_batches_matter) train.micro_batch = 1;
    std::erase_if(stage.missing, [](const std::string& key) { return key.starts_with("run.") || key.starts_with("log."); });
    if (!recipe.staged) stage.name.clear();  // it is the run's
  }
  return sha256_text(print_recipe(kept, PrintStyle::full)).substr(0, 8);
}

}  // namespace fusion
