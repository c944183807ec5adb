#include "fusion/data/mixture.h"

#include "fusion/base/random.h"
#include "fusion/base/thread_pool.h"
#include "fusion/config/schema.h"
#include "fusion/config/yaml.h"
#include "fusion/data/annotation.h"
#include "fusion/data/quarantine.h"
#include "fusion/data/source_files.h"

#include <algorithm>
#include <charconv>
#include <map>

namespace fusion {
namespace {

constexpr uint64_t kRandomStream = 0x6D697874;  // key of random:N, apart from the keys of other draws

/// One entry of the YAML.
struct DataSet {
  std::string json_path, sampling_strategy = "all", name, image_folder;
  int64_t repeat = 1, max_samples = 0;

  template <class Visitor>
  void visit(Visitor& v) {
    v("json_path", json_path, "LLaVA .json or .jsonl file, .tar or .mds shards {000..011}, or their folder; {x,y} names several.", v.path());
    v("sampling_strategy", sampling_strategy, "all, first:N, end:N or random:N; N also as p%.");
    v("name", name, "Name in messages and in the ledger; empty = the file's stem.");
    v("image_folder", image_folder, "Root of relative picture paths; empty = data.image_folder, else the folder of json_path.", v.path());
    v("repeat", repeat, "Times that the taken rows come.", v.positive());
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
  std::string name, strategy, where;
  int64_t repeat = 1, max_samples = 0;
};

/// What a strategy takes of `count` rows: the range [begin, begin + taken), or `taken` drawn ones.
struct Choice {
  int64_t begin = 0, taken = 0;
  bool random = false;
};

Choice choose(const Entry& entry, int64_t count) {
  const std::string& text = entry.strategy;
  if (text == "all") return {0, count};
  auto bad = [&](const std::string& why) {
    fail(ExitCode::usage,
         "data: {}: sampling_strategy '{}' {}; it is all, first:N, end:N or random:N, with N a whole number or a whole percentage like 10%",
         entry.where, text, why);
  };
  const auto colon = text.find(':');
  const std::string word = text.substr(0, colon);
  if (word != "first" && word != "end" && word != "random") bad("is not known");
  if (colon == std::string::npos) bad("has no number");
  std::string_view digits = std::string_view(text).substr(colon + 1);
  while (digits.starts_with(' ')) digits.remove_prefix(1);
  while (digits.ends_with(' ')) digits.remove_suffix(1);
  const bool percent = digits.ends_with('%');
  if (percent) digits.remove_suffix(1);
  int64_t number = 0;
  const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc() || stop != digits.data() + digits.size() || number < 0) bad("needs a whole number from 0 after the colon");
  if (word == "end" && number == 0) bad("takes nothing; leave the data set out");  // the released code takes all
  if (percent) number = number >= 100 ? count : (number * count + 99) / 100;
  number = std::min(number, count);
  return {word == "end" ? count - number : 0, number, word == "random"};
}

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
      entries.push_back(
          {file, std::move(images), set.name.empty() ? source_name(file) : set.name, set.sampling_strategy, where, set.repeat, set.max_samples});
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
    Choice choice;
    std::vector<uint32_t> listed;  // the rows, ascending, where they are no range
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

  Place place(int64_t index) const {
    if (index < 0 || ends.empty() || index >= ends.back())
      fail(ExitCode::failure, "data: sample {} of a mixture of {}", index, ends.empty() ? 0 : ends.back());
    const auto part = static_cast<size_t>(std::upper_bound(ends.begin(), ends.end(), index) - ends.begin());
    const Choice& choice = parts[part].choice;
    const int64_t at = (index - (part ? ends[part - 1] : 0)) % choice.taken;
    const auto& listed = parts[part].listed;
    return {part, listed.empty() ? choice.begin + at : static_cast<int64_t>(listed[static_cast<size_t>(at)])};
  }
};

namespace {

/// Takes rows out of a part's choice. Returns what decides them, for the digest; empty when none was chosen.
template <class Part>
std::string leave_out(Part& part, const std::vector<uint32_t>& bad) {
  std::vector<uint32_t> kept, left;
  for (int64_t at = 0; at < part.choice.taken && !bad.empty(); ++at) {
    const uint32_t row = part.listed.empty() ? static_cast<uint32_t>(part.choice.begin + at) : part.listed[static_cast<size_t>(at)];
    (std::binary_search(bad.begin(), bad.end(), row) ? left : kept).push_back(row);
  }
  if (left.empty()) return "";
  part.choice.taken = static_cast<int64_t>(kept.size());
  part.listed = std::move(kept);
  return "\t" + sha256_text({reinterpret_cast<const char*>(left.data()), left.size() * sizeof(uint32_t)});
}

}  // namespace

Mixture::Mixture(const fs::path& path, const std::string& image_folder, int64_t seed, int64_t max_samples, const fs::path& quarantine,
                 const CacheOptions& cache)
    : state_(std::make_unique<State>()) {
  std::vector<Entry> entries = read_entries(path, image_folder);
  for (Entry& entry : entries)
    if (max_samples > 0) entry.max_samples = entry.max_samples > 0 ? std::min(entry.max_samples, max_samples) : max_samples;

  if (!cache.folder.empty()) state_->cache = std::make_shared<ShardCache>(cache.folder, cache.bytes);
  std::map<fs::path, std::shared_ptr<const AnnotationFile>> files;
  for (const Entry& entry : entries)
    if (auto& file = files[entry.file]; !file) file = std::make_shared<AnnotationFile>(entry.file, RowIndex::kKeptBytes, state_->cache);

  const Quarantine bad_rows = quarantine.empty() ? Quarantine() : Quarantine(quarantine);
  std::string decisive;
  int64_t total = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    const Entry& entry = entries[i];
    const auto& file = files[entry.file];
    State::Part part{file, entry.image_folder, choose(entry, file->size()), {}};
    if (entry.max_samples > 0) part.choice.taken = std::min(part.choice.taken, entry.max_samples);
    if (part.choice.random) {
      auto drawn = random_permutation(static_cast<uint32_t>(file->size()), {static_cast<uint64_t>(seed), kRandomStream, i});
      drawn.resize(static_cast<size_t>(part.choice.taken));
      std::sort(drawn.begin(), drawn.end());
      part.listed = std::move(drawn);
    }
    const int64_t chosen = part.choice.taken;
    const std::string without = leave_out(part, bad_rows.rows(entry.file, file->content_hash()));
    const int64_t used = part.choice.taken * entry.repeat;
    total += used;
    decisive += fmt::format("{}\t{}\t{}\t{}\t{}\t{}\t{}{}\n", entry.name, entry.file.filename().string(), file->content_hash(), part.choice.begin,
                            chosen, entry.repeat, part.choice.random ? seed : -1, without);
    state_->sources.push_back({entry.name, entry.file.string(), file->content_hash(), file->size(), used, entry.repeat, chosen - part.choice.taken});
    state_->parts.push_back(std::move(part));
    state_->ends.push_back(total);
  }
  if (total > INT32_MAX) fail(ExitCode::usage, "data: {}: {} samples, the limit is {}", path.string(), total, INT32_MAX);
  state_->digest = sha256_text(decisive);
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
    for (int64_t i = 0; i < source.used / source.repeat; ++i) places.push_back(begin + i);
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

const std::string& Mixture::digest() const { return state_->digest; }

}  // namespace fusion
