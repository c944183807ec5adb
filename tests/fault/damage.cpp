// Damages the newest checkpoint of a folder again and again: each time the older one has to be taken, and the damage named.
//   fault_damage CHECKPOINTS FLIPS SEED     FLIPS single bits, and a fifth as many cuts, overwritten stretches, added bytes, missing and foreign
//   files
#include "fusion/base/error.h"
#include "fusion/base/log.h"
#include "fusion/base/random.h"
#include "fusion/train/checkpoint.h"

#include <algorithm>
#include <fstream>
#include <iostream>

namespace fusion {
namespace {

void put(const fs::path& path, std::string_view bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

/// A file of the checkpoint, and its namesake in the older one.
struct Target {
  fs::path path, older;
  std::string bytes;
};

class Damage {
 public:
  Damage(const fs::path& checkpoints, uint64_t seed) : checkpoints_(checkpoints), stream_({seed}) {
    const auto list = list_checkpoints(checkpoints);
    FUSION_CHECK(list.size() == 2 && list[0].finished && list[1].finished, "two finished checkpoints are needed in {}", checkpoints.string());
    older_ = list[1].step;
    for (const auto& entry : fs::directory_iterator(checkpoints / list[0].name))
      targets_.push_back({entry.path(), checkpoints / list[1].name / entry.path().filename(), read_file(entry.path())});
    std::sort(targets_.begin(), targets_.end(), [](const Target& a, const Target& b) { return a.path < b.path; });
  }

  /// Half of them where most bytes are, half in any file: small files would hardly be met otherwise.
  std::string flip() {
    const Target& target = stream_.below(2) == 0 ? biggest() : any();
    std::string bytes = target.bytes;
    const uint64_t bit = stream_.below(8 * bytes.size());
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
    put(target.path, bytes);
    return check(target, fmt::format("bit {} of {}", bit, target.path.filename().string()));
  }

  std::string harm() {
    static constexpr const char* kKinds[] = {"cut", "overwritten", "longer", "missing", "of another step"};
    for (;;) {
      const Target& target = any();
      std::string bytes = target.bytes;
      const uint64_t at = stream_.below(bytes.size()), kind = stream_.below(std::size(kKinds));
      if (kind == 0) bytes.resize(at);
      if (kind == 1) std::fill(bytes.begin() + static_cast<ptrdiff_t>(at), bytes.end(), '\xA5');
      if (kind == 2) bytes.append(at + 1, '\0');
      if (kind == 4) bytes = read_file(target.older);
      if (kind != 3 && bytes == target.bytes) continue;  // some files are the same in both
      put(target.path, bytes);
      if (kind == 3) fs::remove(target.path);
      return check(target, fmt::format("{} {} from byte {}", target.path.filename().string(), kKinds[kind], at));
    }
  }

 private:
  const Target& any() { return targets_[stream_.below(targets_.size())]; }
  const Target& biggest() {
    return *std::max_element(targets_.begin(), targets_.end(), [](const Target& a, const Target& b) { return a.bytes.size() < b.bytes.size(); });
  }

  /// Empty, or what went wrong. Repairs the damage.
  std::string check(const Target& target, const std::string& what) {
    std::string problem;
    try {
      const bool no_manifest =
          target.path.filename() == "manifest.json" && !fs::exists(target.path);  // a folder that does not count: nothing to name
      const std::string reason = verify_checkpoint(target.path.parent_path());
      if (reason.find(target.path.filename().string()) == std::string::npos && !no_manifest) problem = "named as '" + reason + "'";
      const auto found = newest_checkpoint(checkpoints_);
      if (!found || found->step() != older_) problem = fmt::format("step {} was taken", found ? found->step() : -1);
    } catch (const std::exception& error) {
      problem = error.what();
    }
    put(target.path, target.bytes);
    return problem.empty() ? "" : what + ": " + problem;
  }

  fs::path checkpoints_;
  RandomStream stream_;
  std::vector<Target> targets_;
  int64_t older_ = 0;
};

int run(const fs::path& checkpoints, int64_t flips, uint64_t seed) {
  log::setup("off");
  Damage damage(checkpoints, seed);
  int64_t missed = 0;
  for (int64_t i = 0; i < flips + flips / 5; ++i)
    if (const std::string problem = i < flips ? damage.flip() : damage.harm(); !problem.empty()) {
      std::cout << "FAILED: " << problem << '\n';
      ++missed;
    }
  fmt::print("seed {}: {} bit flips and {} other damages, {} not refused\n", seed, flips, flips / 5, missed);
  return missed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace fusion

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  return fusion::run(argv[1], std::stoll(argv[2]), std::stoull(argv[3]));
}
