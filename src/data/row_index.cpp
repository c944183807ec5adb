#include "fusion/data/row_index.h"

#include "fusion/base/error.h"
#include "fusion/base/log.h"
#include "fusion/base/thread_pool.h"
#include "row_format.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <future>
#include <optional>

namespace fusion {
namespace {

constexpr uint64_t kPieceBytes = uint64_t{16} << 20;  // of text that is split, then measured
constexpr uint64_t kSerialBytes = uint64_t{1} << 20;  // files up to this size are measured on the calling thread
constexpr uint64_t kSamples = 64, kSampleBytes = 4096;

// The file's head, in front of the entries.
struct Head {
  char magic[8] = {'F', 'U', 'S', 'R', 'O', 'W', 'S', '1'};
  uint64_t size = 0, changed_ns = 0, entries = 0;  // of the indexed file; entries of this one
  uint64_t sampled[2] = {}, content[2] = {};       // XXH3-128: of the sampled blocks, of the whole text
  uint64_t check = 0;                              // XXH3-64 of the entries
};

void put(uint64_t (&into)[2], XXH128_hash_t hash) { into[0] = hash.high64, into[1] = hash.low64; }

uint64_t changed_ns(const fs::path& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) fail(ExitCode::io, "data: {}: {}", path.string(), std::strerror(errno));
  return static_cast<uint64_t>(info.st_mtim.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(info.st_mtim.tv_nsec);
}

// Blocks spread evenly over the text, the first and the last one among them.
XXH128_hash_t sampled_hash(std::string_view text) {
  if (text.size() <= kSamples * kSampleBytes) return XXH3_128bits(text.data(), text.size());
  std::string blocks;
  for (uint64_t i = 0; i < kSamples; ++i) {
    const auto at = static_cast<uint64_t>(static_cast<double>(text.size() - kSampleBytes) * static_cast<double>(i) / (kSamples - 1));
    blocks += text.substr(at, kSampleBytes);
  }
  return XXH3_128bits(blocks.data(), blocks.size());
}

std::string hex(const uint64_t (&hash)[2]) { return fmt::format("{:016x}{:016x}", hash[0], hash[1]); }

fs::path beside(const fs::path& path) { return path.parent_path() / ("." + path.filename().string() + ".rows"); }

fs::path in_cache(const fs::path& path) {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const fs::path root = cache && *cache ? fs::path(cache) : fs::path(home && *home ? home : "/tmp") / ".cache";
  return root / "fusion" / "rows" / (sha256_text(fs::weakly_canonical(path).string()).substr(0, 32) + ".rows");
}

/// Makes the index of a text; `head` gets what it holds.
class Builder {
 public:
  Builder(const fs::path& path, std::string_view text, const RowFormat& format, const RowLength& length)
      : path_(path), text_(text), format_(format), length_(length) {
    XXH3_128bits_reset(hash_.get());
  }

  std::vector<uint64_t> build() {
    if (text_.size() > RowIndex::kPlaceMask)
      fail(ExitCode::usage, "data: {}: {} bytes; a file may have {}: split it", path_.string(), text_.size(), RowIndex::kPlaceMask);
    const auto splitter = format_.splitter(text_);
    // One piece is split while the rows of the piece before are measured on all cores.
    // Threads of their own are for files that have more than one piece.
    const auto policy = text_.size() > kPieceBytes ? std::launch::async : std::launch::deferred;
    auto rows = splitter->next(kPieceBytes);
    while (!rows.empty()) {
      const uint64_t rows_end = splitter->end();
      auto following = std::async(policy, [&] { return splitter->next(kPieceBytes); });
      measure(rows, rows_end);
      rows = following.get();
      report(rows_end);
    }
    entries_.push_back(splitter->end());
    return std::move(entries_);
  }

  std::pair<uint64_t, uint64_t> content_hash() {
    XXH3_128bits_update(hash_.get(), text_.data() + hashed_, text_.size() - hashed_);
    hashed_ = text_.size();
    const XXH128_hash_t hash = XXH3_128bits_digest(hash_.get());
    return {hash.high64, hash.low64};
  }

 private:
  void measure(const std::vector<uint64_t>& rows, uint64_t rows_end) {
    const size_t first = entries_.size();
    entries_.resize(first + rows.size());
    parallel_for(static_cast<int64_t>(rows.size()), text_.size() > kSerialBytes ? available_cores() : 1, [&](int64_t begin, int64_t end) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
        const uint64_t row_end = i + 1 < rows.size() ? rows[i + 1] : rows_end;
        const int32_t words = length_(rows[i], row_end);
        const int32_t kept = std::min(std::abs(words), RowIndex::kNoPicture - 1) | (words < 0 ? RowIndex::kNoPicture : 0);
        entries_[first + i] = rows[i] | static_cast<uint64_t>(kept) << RowIndex::kPlaceBits;
      }
    });
    XXH3_128bits_update(hash_.get(), text_.data() + hashed_, rows_end - hashed_);
    hashed_ = rows_end;
  }

  // A line every few seconds, for files that take longer.
  void report(uint64_t done) {
    constexpr std::chrono::seconds kPause(5);
    const auto now = std::chrono::steady_clock::now();
    if (now - reported_ < kPause) return;
    reported_ = now;
    const double seconds = std::chrono::duration<double>(now - begun_).count();
    log::info("data: {}: indexing, {:.0f} % of {:.1f} GB at {:.0f} MB/s", path_.string(),
              100.0 * static_cast<double>(done) / static_cast<double>(text_.size()), static_cast<double>(text_.size()) / 1e9,
              static_cast<double>(done) / 1e6 / seconds);
  }

  const fs::path& path_;
  std::string_view text_;
  const RowFormat& format_;
  const RowLength& length_;
  std::vector<uint64_t> entries_;
  std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> hash_{XXH3_createState(), XXH3_freeState};
  uint64_t hashed_ = 0;
  const std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point reported_ = begun_;
};

struct Kept {
  MappedFile map;
  Head head;
  std::span<const uint64_t> entries;
};

/// The index at `file` when it is one of this very text.
std::optional<std::shared_ptr<Kept>> read_kept(const fs::path& file, const Head& wanted) {
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return std::nullopt;
  auto kept = std::make_shared<Kept>();
  try {
    kept->map = MappedFile(file);
  } catch (const Error&) {
    return std::nullopt;
  }
  if (kept->map.size() < sizeof(Head)) return std::nullopt;
  std::memcpy(&kept->head, kept->map.data(), sizeof(Head));
  const Head& head = kept->head;
  if (std::memcmp(head.magic, wanted.magic, sizeof head.magic) != 0 || head.size != wanted.size || head.changed_ns != wanted.changed_ns ||
      std::memcmp(head.sampled, wanted.sampled, sizeof head.sampled) != 0)
    return std::nullopt;
  const uint64_t bytes = kept->map.size() - sizeof(Head);
  if (head.entries == 0 || bytes % sizeof(uint64_t) != 0 || head.entries != bytes / sizeof(uint64_t)) return std::nullopt;
  kept->entries = {reinterpret_cast<const uint64_t*>(kept->map.data() + sizeof(Head)), head.entries};
  if (XXH3_64bits(kept->entries.data(), bytes) != head.check) {
    log::warn("data: {}: the index is damaged; it is made anew", file.string());
    return std::nullopt;
  }
  return kept;
}

bool write_kept(const fs::path& file, const Head& head, std::span<const uint64_t> entries) {
  try {
    make_directories(file.parent_path());
    AtomicFile out(file);
    out.write(std::as_bytes(std::span(&head, 1)));
    out.write(std::as_bytes(entries));
    out.commit();
    return true;
  } catch (const Error&) {
    return false;  // a folder that may not be written, or a full disk: the next place, or no index file at all
  }
}

/// Held while an index is made, so that the other processes of a machine wait for it instead of making it too.
class Turn {
 public:
  explicit Turn(const fs::path& index) {
    std::error_code ignored;
    fs::create_directories(index.parent_path(), ignored);
    fd_ = ::open((index.string() + ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    while (fd_ >= 0 && ::flock(fd_, LOCK_EX) != 0 && errno == EINTR) {
    }
  }
  ~Turn() {
    if (fd_ >= 0) ::close(fd_);
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  int fd_ = -1;
};

}  // namespace

RowIndex RowIndex::open(const fs::path& path, std::string_view text, const RowFormat& format, const RowLength& length, uint64_t kept_bytes) {
  RowIndex index;
  Head wanted;
  const bool keep = text.size() >= kept_bytes;
  const fs::path places[] = {beside(path), in_cache(path)};
  const auto use_kept = [&] {
    for (const fs::path& place : places) {
      const auto kept = read_kept(place, wanted);
      if (!kept) continue;
      index.owner_ = *kept;
      index.entries_ = (*kept)->entries;
      index.content_hash_ = hex((*kept)->head.content);
      return true;
    }
    return false;
  };

  std::optional<Turn> turn;
  if (keep) {
    wanted.size = text.size();
    wanted.changed_ns = changed_ns(path);
    put(wanted.sampled, sampled_hash(text));
    if (use_kept()) return index;
    turn.emplace(places[1]);
    if (use_kept()) return index;
  }

  Builder builder(path, text, format, length);
  auto entries = std::make_shared<std::vector<uint64_t>>(builder.build());
  std::tie(wanted.content[0], wanted.content[1]) = builder.content_hash();
  index.entries_ = *entries;
  index.owner_ = entries;
  index.content_hash_ = hex(wanted.content);
  if (!keep) return index;

  wanted.entries = entries->size();
  wanted.check = XXH3_64bits(entries->data(), entries->size() * sizeof(uint64_t));
  if (!write_kept(places[0], wanted, *entries) && !write_kept(places[1], wanted, *entries))
    log::warn_once(fmt::format("data: {}: neither {} nor {} can be written: the file is indexed anew at each start", path.string(),
                               places[0].string(), places[1].string()));
  return index;
}

}  // namespace fusion
