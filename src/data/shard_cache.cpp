#include "fusion/data/shard_cache.h"

#include "fusion/base/error.h"
#include "fusion/base/log.h"

#include "content_hash.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace fusion {
namespace {

constexpr uint64_t kPieceBytes = uint64_t{4} << 20;  // copied at a time
constexpr uint64_t kIdleReads = 10;                  // per shard: one that is left out so often is no longer in use
constexpr std::chrono::milliseconds kPause(50);      // between looks at another process's lock

struct Copy {
  fs::path path;
  uint64_t bytes = 0;
  fs::file_time_type used;
};

/// A copy's name is the hash of its content and the shard's ending.
bool is_copy(const fs::path& path) {
  const std::string stem = path.stem().string();
  return stem.size() == 32 && stem.find_first_not_of("0123456789abcdef") == std::string::npos &&
         (path.extension() == ".tar" || path.extension() == ".mds");
}

}  // namespace

struct ShardCache::State {
  fs::path folder;
  uint64_t limit = 0;
  std::atomic<uint64_t> reads{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;  // of all below and of the shards' members
  std::condition_variable changed;
  std::deque<std::shared_ptr<Shard>> wanted;
  std::vector<std::shared_ptr<Shard>> shards;
  std::thread copier;

  void run();
  void fetch(Shard& shard);
  std::optional<FileLock> take_turn(const std::function<bool()>& give_up) const;
  bool use(Shard& shard);
  bool make_room(uint64_t bytes);
  void release_idle();
  bool pass(const std::string_view text, const std::function<void(std::string_view)>& take) const;
};

class ShardCache::Shard : public CachedShard, public std::enable_shared_from_this<Shard> {
 public:
  Shard(std::shared_ptr<State> of, fs::path from, const std::string& content_hash, std::shared_ptr<const MappedFile> file)
      : state(std::move(of)),
        path(std::move(from)),
        target(state->folder / (content_hash + path.extension().string())),
        hash(content_hash),
        original(std::move(file)) {}

  std::shared_ptr<const MappedFile> copy() override {
    const uint64_t read = ++state->reads;
    const std::lock_guard lock(state->mutex);
    last_read = read;
    if (!local) ask();
    return local;
  }

  bool want() override {
    const std::lock_guard lock(state->mutex);
    if (!local) ask();
    return local != nullptr;
  }

  /// Queues the shard once; again only after a while where there was no room.
  void ask() {
    if (queued || state->reads < retry_at || state->stop) return;
    queued = true;
    state->wanted.push_back(shared_from_this());
    state->changed.notify_one();
  }

  const std::shared_ptr<State> state;
  const fs::path path, target;
  const std::string hash;
  const std::shared_ptr<const MappedFile> original;
  // Behind state->mutex:
  std::shared_ptr<const MappedFile> local;
  std::unique_ptr<UseLock> in_use;
  uint64_t last_read = 0, retry_at = 0;
  bool queued = false;
};

/// Gives `take` the text piece by piece; false when the cache is closed meanwhile.
bool ShardCache::State::pass(std::string_view text, const std::function<void(std::string_view)>& take) const {
  for (; !text.empty(); text.remove_prefix(std::min<uint64_t>(kPieceBytes, text.size()))) {
    if (stop) return false;
    take(text.substr(0, kPieceBytes));
  }
  return true;
}

/// Takes the copy that lies in the folder, when it is whole; one that is not is removed.
bool ShardCache::State::use(Shard& shard) {
  std::error_code ignored;
  if (!fs::exists(shard.target, ignored)) return false;
  auto lock = std::make_unique<UseLock>(shard.target);
  auto copy = std::make_shared<const MappedFile>(shard.target);
  ContentHash hash;
  if (!pass(copy->text(), [&](std::string_view piece) { hash.update(piece); })) return false;
  if (hash.hex() != shard.hash) {
    log::warn("data: {}: a damaged copy of {}; it is made anew", shard.target.string(), shard.path.string());
    lock.reset();
    remove_unused(shard.target);
    return false;
  }
  touch(shard.target);
  const std::lock_guard guard(mutex);
  shard.local = std::move(copy);
  shard.in_use = std::move(lock);
  shard.last_read = reads;
  return true;
}

/// Lets go of copies that are no longer read, so that they may be removed.
void ShardCache::State::release_idle() {
  const std::lock_guard lock(mutex);
  const uint64_t now = reads, idle = kIdleReads * shards.size();
  for (const auto& shard : shards) {
    if (!shard->local || now - std::min(now, shard->last_read) <= idle) continue;
    touch(shard->target);
    shard->local.reset();
    shard->in_use.reset();
  }
}

/// Removes the least recently used copies until `bytes` more fit. The folder's lock is held: what is half written belongs to nobody alive.
bool ShardCache::State::make_room(uint64_t bytes) {
  release_idle();
  std::vector<Copy> copies;
  uint64_t total = 0;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().filename().string().find(".tmp-") != std::string::npos && is_copy(entry.path().stem())) remove_unused(entry.path());
    if (!is_copy(entry.path())) continue;
    copies.push_back({entry.path(), entry.file_size(error), entry.last_write_time(error)});
    total += copies.back().bytes;
  }
  std::sort(copies.begin(), copies.end(), [](const Copy& a, const Copy& b) { return a.used < b.used; });
  for (const Copy& copy : copies) {
    if (total + bytes <= limit) break;
    if (remove_unused(copy.path)) total -= copy.bytes;
  }
  return total + bytes <= limit;
}

/// One process of a machine copies at a time: the slow disk serves one reader best, and the room is counted once. Empty when `give_up` comes first.
std::optional<FileLock> ShardCache::State::take_turn(const std::function<bool()>& give_up) const {
  while (!stop && !give_up()) {
    try {
      return std::optional<FileLock>(std::in_place, folder / "lock");
    } catch (const Error& error) {
      if (error.code() != ExitCode::usage) throw;
      std::this_thread::sleep_for(kPause);
    }
  }
  return std::nullopt;
}

void ShardCache::State::fetch(Shard& shard) {
  const auto turn = take_turn([&] { return use(shard); });
  if (!turn || use(shard)) return;
  const std::string_view text = shard.original->text();
  if (!make_room(text.size())) {
    log::warn_once(fmt::format("data: {}: no room for copies of all shards; the others are read where they are. data.cache_gb is {:g}",
                               folder.string(), static_cast<double>(limit) / 1e9));
    const std::lock_guard lock(mutex);
    shard.retry_at = reads + kIdleReads * shards.size();
    return;
  }
  ContentHash hash;
  AtomicFile file(shard.target);
  shard.original->will_need(0, text.size());
  const bool whole = pass(text, [&](std::string_view piece) {
    hash.update(piece);
    file.write(piece);
  });
  if (!whole) return;
  if (hash.hex() != shard.hash) fail(ExitCode::data, "data: {}: it changes while it is read", shard.path.string());
  file.commit(Sync::no);
  use(shard);
}

void ShardCache::State::run() {
  try {  // copies that an earlier run left may be more than this one allows
    if (const auto turn = take_turn([] { return false; })) make_room(0);
  } catch (const Error& error) {
    log::warn("{}", error.what());
  }
  for (;;) {
    std::shared_ptr<Shard> shard;
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return stop || !wanted.empty(); });
      if (stop) return;
      shard = std::move(wanted.front());
      wanted.pop_front();
    }
    try {
      fetch(*shard);
    } catch (const Error& error) {  // a full disk, or a shard that cannot be copied: its original is read, and tells what is wrong
      log::warn_once(fmt::format("{}; read where it is: {}", error.what(), shard->path.string()));
      const std::lock_guard lock(mutex);
      shard->retry_at = UINT64_MAX;
    }
    const std::lock_guard lock(mutex);
    shard->queued = false;
  }
}

ShardCache::ShardCache(const fs::path& folder, uint64_t bytes) : state_(std::make_shared<State>()) {
  make_directories(folder);
  state_->folder = folder;
  state_->limit = bytes;
  state_->copier = std::thread([state = state_.get()] { state->run(); });
}

ShardCache::~ShardCache() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  state_->changed.notify_all();
  state_->copier.join();
  const std::lock_guard lock(state_->mutex);  // the shards hold the state: no circle may stay
  state_->wanted.clear();
  state_->shards.clear();
}

std::shared_ptr<CachedShard> ShardCache::add(const fs::path& path, const std::string& content_hash, std::shared_ptr<const MappedFile> original) {
  auto shard = std::make_shared<Shard>(state_, path, content_hash, std::move(original));
  const std::lock_guard lock(state_->mutex);
  state_->shards.push_back(shard);
  return shard;
}

}  // namespace fusion
