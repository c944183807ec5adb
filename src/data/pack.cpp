#include "fusion/data/pack.h"

#include "fusion/base/json.h"
#include "fusion/base/progress.h"
#include "fusion/base/thread_pool.h"
#include "fusion/data/annotation.h"
#include "fusion/data/prepare.h"

#include "content_hash.h"
#include "tar_sample.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <optional>

namespace fusion {
namespace {

/// A row where it comes from.
struct Origin {
  std::string key, text;
  std::optional<StoredPicture> picture;
  std::string ending;
  std::optional<UnusableRow> unusable;
  bool has_text = false;
};

Origin read_origin(const Mixture& mixture, int64_t place) {
  const int64_t source = mixture.source(place);
  Origin origin;
  origin.key = fmt::format("{:03}-{:09}", source, mixture.row(place));
  const auto blame = [&](const std::string& id, const std::string& where, const std::string& reason) {
    origin.unusable = {mixture.sources()[static_cast<size_t>(source)].name, id, where, reason, mixture.row(place)};
  };
  try {
    origin.text = mixture.text(place);
    origin.has_text = true;
  } catch (const Error& error) {
    if (error.code() != ExitCode::data) throw;
  }
  try {
    const Sample sample = mixture.sample(place);
    if (sample.image.empty()) return origin;
    try {
      origin.picture = open_picture(sample);
      origin.ending = picture_ending(sample.image);
    } catch (const Error& error) {
      blame(sample.id, sample.where, fmt::format("image: {}", error.what()));
    }
  } catch (const BadSample& bad) {
    blame(bad.id, bad.where, bad.reason);
  }
  return origin;
}

struct Shard {
  std::string file, name;  // name: of its data set
  size_t begin = 0, end = 0;
  int64_t rows = 0;  // those of [begin, end) that have a text
  uint64_t bytes = 0;
  std::string xxh3;
  bool kept = false;

  Json json() const { return {{"format", "tar"}, {"file", file}, {"bytes", bytes}, {"rows", rows}, {"xxh3", xxh3}, {"name", name}}; }
  bool same(const Json& noted) const { return noted["bytes"] == bytes && noted["rows"] == rows; }
};

struct DataSet {
  std::string name, json_path;
  int64_t repeat = 1;
};

struct Plan {
  std::vector<int64_t> places;  // of the mixture, in its order, each row once
  std::vector<Shard> shards;
  std::vector<DataSet> sets;
  std::vector<UnusableRow> unusable;
};

/// A name as part of a file's name.
std::string plain_name(const std::string& name) {
  std::string out;
  for (const char c : name.substr(0, 100)) out += std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' ? c : '_';
  return out;
}

/// Looks at every row, and cuts each data set into shards.
Plan make_plan(const Mixture& mixture, const PackOptions& options) {
  Plan plan;
  plan.places = mixture.first_places();
  std::vector<uint64_t> bytes(plan.places.size());  // of its members; 0 = no text
  std::mutex collecting;
  std::vector<std::pair<size_t, UnusableRow>> unusable;
  parallel_for(static_cast<int64_t>(plan.places.size()), options.jobs, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      Origin origin = read_origin(mixture, plan.places[i]);
      if (origin.has_text)
        bytes[i] = tar_sample_bytes(origin.key, origin.text.size(),
                                    origin.picture ? std::vector<uint64_t>{origin.picture->bytes.size()} : std::vector<uint64_t>{});
      if (!origin.unusable) continue;
      const std::lock_guard lock(collecting);
      unusable.emplace_back(i, std::move(*origin.unusable));
    }
  });
  std::sort(unusable.begin(), unusable.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (auto& [place, row] : unusable) plan.unusable.push_back(std::move(row));

  size_t at = 0;
  for (size_t s = 0; s < mixture.sources().size(); ++s) {
    const SourceInfo& source = mixture.sources()[s];
    const std::string stem = fmt::format("{:02}-{}", s, plain_name(source.name));
    const size_t set_end = at + static_cast<size_t>(source.taken), first = plan.shards.size();
    while (at < set_end) {
      Shard shard{fmt::format("{}-{:06}.tar", stem, plan.shards.size() - first), source.name, at, at, 0, tar_end().size(), "", false};
      do {
        shard.bytes += bytes[at];
        shard.rows += bytes[at] > 0;
        ++at;
      } while (at < set_end && (shard.rows == 0 || shard.bytes + bytes[at] <= options.shard_bytes));
      shard.end = at;
      plan.shards.push_back(std::move(shard));
    }
    const size_t shards = plan.shards.size() - first;
    if (shards == 1) plan.sets.push_back({source.name, plan.shards.back().file, source.repeat});
    if (shards > 1) plan.sets.push_back({source.name, fmt::format("{}-{{{:06}..{:06}}}.tar", stem, 0, shards - 1), source.repeat});
  }
  return plan;
}

/// Shards that earlier runs finished, by their file: those of a whole pack, and of one that was interrupted.
std::map<std::string, Json> noted_shards(const fs::path& out) {
  std::map<std::string, Json> noted;
  const auto note = [&](const Json& shard) {
    if (!shard.is_object() || !shard.contains("bytes") || !shard.contains("rows")) return;
    const std::string where = "data: " + out.string();
    noted[json_get<std::string>(shard, "file", where)] = {
        {"bytes", shard["bytes"]}, {"rows", shard["rows"]}, {"xxh3", json_get<std::string>(shard, "xxh3", where)}};
  };
  std::error_code ignored;
  if (fs::exists(out / "index.json", ignored)) {
    const Json index = read_json(out / "index.json");
    FUSION_CHECK(index.is_object() && index.contains("shards"), "data: {}: no index of shards; choose another folder", (out / "index.json").string());
    for (const Json& shard : index["shards"]) note(shard);
  }
  if (!fs::exists(out / "pack.jsonl", ignored)) return noted;
  const std::string lines = read_file(out / "pack.jsonl");
  for (size_t at = 0; at < lines.size();) {
    const size_t end = std::min(lines.find('\n', at), lines.size());
    try {
      note(parse_json(std::string_view(lines).substr(at, end - at), "pack.jsonl"));
    } catch (const Error&) {  // torn by a crash: its shard is written anew
    }
    at = end + 1;
  }
  return noted;
}

class Packer {
 public:
  Packer(const Mixture& mixture, const fs::path& out, const PackOptions& options, Plan& plan)
      : mixture_(mixture), out_(out), options_(options), plan_(plan), noted_(noted_shards(out)) {
    for (const auto& [file, shard] : noted_)
      FUSION_CHECK(std::any_of(plan.shards.begin(), plan.shards.end(), [&](const Shard& one) { return one.file == file; }),
                   "data: {} holds {}, which this mixture with shards of {} bytes does not have; choose another folder or empty this one",
                   out.string(), file, options.shard_bytes);
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(out, error))  // what a killed run left; the folder is locked
      if (entry.path().stem().extension() == ".tar" && entry.path().extension().string().starts_with(".tmp-")) remove_tree(entry.path());
  }

  void run() {
    LineWriter journal(out_ / "pack.jsonl");
    Progress progress("pack", "shards", static_cast<int64_t>(plan_.shards.size()));
    std::atomic<size_t> next{0};
    std::mutex noting;
    int64_t done = 0;
    parallel_for(options_.jobs, options_.jobs, [&](int64_t, int64_t) {
      for (size_t i; (i = next.fetch_add(1)) < plan_.shards.size();) {
        Shard& shard = plan_.shards[i];
        shard.kept = keep(shard);
        if (!shard.kept) write(shard);
        if (const std::string fault = verify(shard); !fault.empty()) {
          if (!shard.kept)
            fail(ExitCode::data, "data: {}: {}; its origin changes while it is packed, or a disk is damaged", (out_ / shard.file).string(), fault);
          shard.kept = false;  // of other rows, or they have changed since
          write(shard);
          if (const std::string again = verify(shard); !again.empty()) fail(ExitCode::data, "data: {}: {}", (out_ / shard.file).string(), again);
        }
        const std::lock_guard lock(noting);
        journal.append(dump_json(shard.json(), -1));
        progress.update(++done);
      }
    });
  }

 private:
  /// Whether the shard is there with the content that was noted.
  bool keep(Shard& shard) const {
    const auto noted = noted_.find(shard.file);
    std::error_code ignored;
    if (noted == noted_.end() || !shard.same(noted->second) || !fs::exists(out_ / shard.file, ignored)) return false;
    const MappedFile file(out_ / shard.file);
    shard.xxh3 = noted->second["xxh3"].get<std::string>();
    return file.size() == shard.bytes && content_hash(file.text()) == shard.xxh3;
  }

  void write(Shard& shard) const {
    AtomicFile file(out_ / shard.file);
    ContentHash hash;
    const auto put = [&](std::string_view bytes) {
      file.write(bytes);
      hash.update(bytes);
    };
    for (size_t i = shard.begin; i < shard.end; ++i) {
      const Origin origin = read_origin(mixture_, plan_.places[i]);
      if (!origin.has_text) continue;
      std::vector<PictureBytes> pictures;
      if (origin.picture)
        pictures.push_back({origin.ending, {reinterpret_cast<const char*>(origin.picture->bytes.data()), origin.picture->bytes.size()}});
      write_tar_sample(origin.key, origin.text, pictures, put);
    }
    put(tar_end());
    if (file.size() != shard.bytes)
      fail(ExitCode::data, "data: {}: {} bytes instead of {}; its origin changes while it is packed", (out_ / shard.file).string(), file.size(),
           shard.bytes);
    file.commit();
    shard.xxh3 = hash.hex();
  }

  /// Reads each sample as a training would, and its origin. Returns what differs; empty = nothing.
  std::string verify(const Shard& shard) const {
    const AnnotationFile packed(out_ / shard.file, 0);
    if (packed.content_hash() != shard.xxh3) return "its content is not what was written";
    if (packed.size() != shard.rows) return fmt::format("{} rows instead of {}", packed.size(), shard.rows);
    int64_t row = 0;
    for (size_t i = shard.begin; i < shard.end; ++i) {
      const Origin origin = read_origin(mixture_, plan_.places[i]);
      if (!origin.has_text) continue;
      const auto picture = packed.picture(row, "", 0, 0);
      const bool same_picture =
          picture.has_value() == origin.picture.has_value() && (!picture || std::equal(picture->stored.bytes.begin(), picture->stored.bytes.end(),
                                                                                       origin.picture->bytes.begin(), origin.picture->bytes.end()));
      if (packed.row(row) != origin.text || !same_picture) return fmt::format("sample {} is not its origin's", origin.key);
      ++row;
    }
    return "";
  }

  const Mixture& mixture_;
  const fs::path& out_;
  const PackOptions& options_;
  Plan& plan_;
  const std::map<std::string, Json> noted_;
};

void write_lists(const fs::path& out, const Plan& plan, PackReport& report) {
  std::string lines;
  for (const UnusableRow& row : plan.unusable)
    lines += dump_json({{"name", row.source}, {"row", row.row}, {"id", row.id}, {"where", row.where}, {"reason", row.reason}}, -1) + "\n";
  write_file(out / "unusable.jsonl", lines);
  std::string yaml = "datasets:\n";
  for (const DataSet& set : plan.sets)
    yaml += fmt::format("- json_path: {}\n  name: {}\n  repeat: {}\n", dump_json(set.json_path, -1), dump_json(set.name, -1), set.repeat);
  write_file(out / "mixture.yaml", yaml);
  Json index = {{"version", 1}, {"rows", 0}, {"shards", Json::array()}};
  for (const Shard& shard : plan.shards) {
    index["shards"].push_back(shard.json());
    report.rows += shard.rows;
    report.bytes += shard.bytes;
    report.kept += shard.kept;
  }
  index["rows"] = report.rows;
  report.shards = static_cast<int64_t>(plan.shards.size());
  write_file(out / "index.json", dump_json(index));
  remove_tree(out / "pack.jsonl");
}

}  // namespace

PackReport pack_mixture(const Mixture& mixture, const fs::path& out, const PackOptions& options) {
  FUSION_CHECK(options.shard_bytes > 0 && options.jobs > 0, "data: shards of {} bytes, {} at a time; both must be positive", options.shard_bytes,
               options.jobs);
  for (const SourceInfo& source : mixture.sources())
    FUSION_CHECK(source.weight == 0,
                 "data: data set '{}' has a weight, which says how often rows come in a training. Pack without weights, and write them "
                 "into the packed mixture.yaml",
                 source.name);
  make_directories(out);
  const FileLock lock(out / ".lock");
  Plan plan = make_plan(mixture, options);
  Packer(mixture, out, options, plan).run();
  PackReport report;
  write_lists(out, plan, report);
  report.unusable = std::move(plan.unusable);
  return report;
}

}  // namespace fusion
