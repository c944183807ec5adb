#include "fusion/data/mixture.h"

#include "fusion/base/thread_pool.h"
#include "fusion/config/schema.h"
#include "fusion/config/yaml.h"
#include "fusion/data/annotation.h"
#include "fusion/data/quarantine.h"
#include "fusion/data/selection.h"
#include "fusion/data/source_files.h"

#include <algorithm>
#include <map>

namespace fusion {
namespace {

/// One entry of the YAML.
struct DataSet {
  std::string json_path, sampling_strategy = "all", filter, name, image_folder;
  int64_t repeat = 1, max_samples = 0;
  double weight = 0;

  template <class Visitor>
  void visit(Visitor& v) {
    v("json_path", json_path, "LLaVA .json or .jsonl file, .tar or .mds shards {000..011}, or their folder; {x,y} names several.", v.path());
    v("sampling_strategy", sampling_strategy, "all, first:N, end:N or random:N; N also as p%.");
    v("filter", filter, "Rows that can be taken: picture or text, words>=N, words<=N; conditions with commas between all hold.");
    v("name", name, "Name in messages and in the ledger; empty = the file's stem.");
    v("image_folder", image_folder, "Root of relative picture paths; empty = data.image_folder, else the folder of json_path.", v.path());
    v("repeat", repeat, "Times that the taken rows come.", v.positive());
    v("weight", weight, "Share of this data set in the mixture, as a part of all weights; 0 = as many as are taken.", v.at_least(0.0));
    v("max_samples", max_samples, "Most rows that are taken, before repeating; 0 = all.", v.at_least(0));
  }
};

struct MixtureFile {
  std::vector<DataSet> datasets;

  template <class Visitor>
  void visit(Visitor& v) {
    v("datasets", datasets, "Data sets in their order.");
  }
};

/// One annotation file of a mixture.
struct Entry {
  fs::path file, image_folder;
  std::string name;
  SelectionRule rule;
  int64_t repeat = 1;
  double weight = 0;
};

/// "a/{x,y}.json" -> {"a/x.json", "a/y.json"}; braces may occur several times, not inside each other. A range {0..9} stays: it is one data set.
std::vector<std::string> expand_braces(const std::string& text) {
  const auto open = text.find('{');
  const auto close = text.find('}', open);
  if (open == std::string::npos || close == std::string::npos) return {text};
  std::vector<std::string> out;
  if (const std::string_view inside = std::string_view(text).substr(open, close - open);
      inside.find("..") != std::string_view::npos && inside.find(',') == std::string_view::npos) {
    for (const std::string& rest : expand_braces(text.substr(close + 1))) out.push_back(text.substr(0, close + 1) + rest);
    return out;
  }
  for (size_t at = open + 1; at <= close;) {
    const size_t comma = std::min(text.find(',', at), close);
    for (const std::string& rest : expand_braces(text.substr(close + 1))) out.push_back(text.substr(0, open) + text.substr(at, comma - at) + rest);
    at = comma + 1;
  }
  return out;
}

std::vector<Entry> read_entries(const fs::path& path, const std::string& image_folder) {
  std::vector<Entry> entries;
  auto add = [&](const DataSet& set, const std::string& where) {
    for (fs::path file : expand_braces(set.json_path)) {
      if (!file.has_filename()) file = file.parent_path();  // a folder with a slash behind it
      fs::path images = set.image_folder.empty() ? image_folder : set.image_folder;
      if (images.empty()) images = file.parent_path();
      entries.push_back({file, std::move(images), set.name.empty() ? source_name(file) : set.name,
                         SelectionRule{set.sampling_strategy, set.filter, set.max_samples, where}, set.repeat, set.weight});
    }
  };
  if (path.extension() != ".yaml" && path.extension() != ".yml") {
    DataSet only;
    only.json_path = path.string();
    add(only, path.string());
    return entries;
  }
  const Node root = read_yaml(path);
  MixtureFile mixture;
  read_value(root, "", {}, mixture);
  const Node* list = root.child("datasets");
  if (!list) fail(ExitCode::usage, "data: {}: a mixture needs the list 'datasets'", path.string());
  for (size_t i = 0; i < mixture.datasets.size(); ++i) {
    const std::string where = list->children[i].origin();
    if (mixture.datasets[i].json_path.empty()) fail(ExitCode::usage, "data: {}: datasets.{} has no json_path", where, i);
    add(mixture.datasets[i], where);
  }
  return entries;
}

}  // namespace

struct Mixture::State {
  struct Part {
    std::shared_ptr<const AnnotationFile> file;
    fs::path image_folder;
    Selection rows;
  };
  struct Place {
    size_t part;
    int64_t row;
  };

  std::vector<Part> parts;
  std::shared_ptr<ShardCache> cache;  // null without one
  std::vector<int64_t> ends;          // place after the last one of each part
  std::vector<SourceInfo> sources;
  std::string digest;

  void weigh(const fs::path& path, const std::vector<Entry>& entries, int64_t seed);
  Place place(int64_t index) const {
    if (index < 0 || ends.empty() || index >= ends.back())
      fail(ExitCode::failure, "data: sample {} of a mixture of {}", index, ends.empty() ? 0 : ends.back());
    const auto part = static_cast<size_t>(std::upper_bound(ends.begin(), ends.end(), index) - ends.begin());
    return {part, parts[part].rows.row(index - (part ? ends[part - 1] : 0))};
  }
};

Mixture::Mixture(const fs::path& path, const std::string& image_folder, int64_t seed, int64_t max_samples, const fs::path& quarantine,
                 const CacheOptions& cache)
    : state_(std::make_unique<State>()) {
  std::vector<Entry> entries = read_entries(path, image_folder);
  for (Entry& entry : entries)
    if (int64_t& limit = entry.rule.max_samples; max_samples > 0) limit = limit > 0 ? std::min(limit, max_samples) : max_samples;

  if (!cache.folder.empty()) state_->cache = std::make_shared<ShardCache>(cache.folder, cache.bytes);
  std::map<fs::path, std::shared_ptr<const AnnotationFile>> files;
  for (const Entry& entry : entries)
    if (auto& file = files[entry.file]; !file) file = std::make_shared<AnnotationFile>(entry.file, RowIndex::kKeptBytes, state_->cache);

  const Quarantine bad_rows = quarantine.empty() ? Quarantine() : Quarantine(quarantine);
  std::string decisive;
  for (size_t i = 0; i < entries.size(); ++i) {
    const Entry& entry = entries[i];
    const auto& file = files[entry.file];
    Selection rows = select_rows(
        entry.rule, file->size(), [&](int64_t row) { return file->modality_length(row); }, seed, i);
    const int64_t begin = rows.begin, chosen = rows.taken;
    const std::vector<uint32_t> left = rows.leave_out(bad_rows.rows(entry.file, file->content_hash()));
    rows.repeat = entry.repeat;
    decisive += fmt::format("{}\t{}\t{}\t{}\t{}\t{}\t{}", entry.name, entry.file.filename().string(), file->content_hash(), begin, chosen,
                            entry.repeat, rows.random ? seed : -1);
    if (!left.empty()) decisive += "\t" + sha256_text({reinterpret_cast<const char*>(left.data()), left.size() * sizeof(uint32_t)});
    if (!entry.rule.filter.empty()) decisive += "\tfilter " + entry.rule.filter;
    if (entry.weight > 0) decisive += fmt::format("\tweight {} seed {}", entry.weight, seed);
    decisive += "\n";
    state_->sources.push_back({entry.name, entry.file.string(), file->content_hash(), file->size(), rows.taken, 0, entry.repeat,
                               static_cast<int64_t>(left.size()), entry.weight});
    state_->parts.push_back({file, entry.image_folder, std::move(rows)});
  }
  state_->weigh(path, entries, seed);
  int64_t total = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    state_->sources[i].used = state_->parts[i].rows.places();
    state_->ends.push_back(total += state_->sources[i].used);
  }
  if (total > INT32_MAX) fail(ExitCode::usage, "data: {}: {} samples, the limit is {}", path.string(), total, INT32_MAX);
  state_->digest = sha256_text(decisive);
}

/// Weights decide how often rows come, in all data sets or in none.
void Mixture::State::weigh(const fs::path& path, const std::vector<Entry>& entries, int64_t seed) {
  std::vector<Selection*> selections;
  std::vector<double> weights;
  for (size_t i = 0; i < entries.size(); ++i) {
    if (entries[i].weight == 0) continue;
    FUSION_CHECK(entries[i].repeat == 1, "data: {}: repeat has no effect beside weight. Remove one of them", entries[i].rule.where);
    selections.push_back(&parts[i].rows);
    weights.push_back(entries[i].weight);
  }
  if (selections.empty()) return;
  FUSION_CHECK(selections.size() == entries.size(), "data: {}: {} of {} data sets have a weight; give it to all of them or to none", path.string(),
               selections.size(), entries.size());
  share_out(selections, weights, seed, path.string());
}

Mixture::~Mixture() = default;

int64_t Mixture::size() const { return state_->ends.empty() ? 0 : state_->ends.back(); }

Sample Mixture::sample(int64_t index) const {
  const auto [part, row] = state_->place(index);
  Sample sample = state_->parts[part].file->sample(row);
  sample.source = static_cast<int32_t>(part);
  if (!sample.image.empty() && !sample.stored) sample.image = (state_->parts[part].image_folder / sample.image).string();
  return sample;
}

std::vector<std::string> Mixture::other_keys(int64_t index) const {
  const auto [part, row] = state_->place(index);
  return state_->parts[part].file->other_keys(row);
}

std::string Mixture::text(int64_t index) const {
  const auto [part, row] = state_->place(index);
  return state_->parts[part].file->row(row);
}

void Mixture::will_need(int64_t index) const {
  if (index < 0 || index >= size()) return;  // a hint; sample() tells
  const auto [part, row] = state_->place(index);
  state_->parts[part].file->will_need(row);
}

std::vector<int64_t> Mixture::first_places() const {
  std::vector<int64_t> places;
  int64_t begin = 0;
  for (const SourceInfo& source : sources()) {
    for (int64_t i = 0; i < std::min(source.used, source.taken); ++i) places.push_back(begin + i);
    begin += source.used;
  }
  return places;
}

int64_t Mixture::row(int64_t index) const { return state_->place(index).row; }

int64_t Mixture::source(int64_t index) const { return static_cast<int64_t>(state_->place(index).part); }

int64_t Mixture::modality_length(int64_t index) const {
  const auto [part, row] = state_->place(index);
  return state_->parts[part].file->modality_length(row);
}

std::vector<int32_t> Mixture::modality_lengths() const {
  std::vector<int32_t> lengths(static_cast<size_t>(size()));
  parallel_for(size(), available_cores(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) lengths[static_cast<size_t>(i)] = static_cast<int32_t>(modality_length(i));
  });
  return lengths;
}

const std::vector<SourceInfo>& Mixture::sources() const { return state_->sources; }

std::string Mixture::table() const {
  size_t width = 4;
  for (const SourceInfo& source : sources()) width = std::max(width, source.name.size());
  std::string text = fmt::format("{:<{}} {:>10} {:>10} {:>10} {:>7}\n", "data", width, "rows", "taken", "places", "share");
  for (const SourceInfo& source : sources())
    text += fmt::format("{:<{}} {:>10} {:>10} {:>10} {:>6.2f}%\n", source.name, width, source.available, source.taken, source.used,
                        size() > 0 ? 100.0 * static_cast<double>(source.used) / static_cast<double>(size()) : 0.0);
  return text;
}

const std::string& Mixture::digest() const { return state_->digest; }

}  // namespace fusion
