#include "fusion/base/error.h"
#include "fusion/base/log.h"
#include "fusion/base/random.h"
#include "manifest.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <span>

namespace fusion {
namespace {

/// Room for what is not a tensor: headers, state, tokenizer.
constexpr uint64_t kSpareBytes = uint64_t{1} << 20;

std::vector<TensorSpec> specs_of(const std::vector<TensorPart>& tensors) {
  std::vector<TensorSpec> specs;
  for (const TensorPart& tensor : tensors) specs.push_back(tensor.spec);
  return specs;
}

/// The files of a checkpoint's tensors, as all ranks plan them.
struct PlannedFile {
  std::string name;
  SafetensorsPlan plan;
};

std::vector<PlannedFile> plan_files(const CheckpointContent& content) {
  std::vector<PlannedFile> files;
  for (const Shard& shard : plan_shards(specs_of(content.model))) files.push_back({shard.file, plan_safetensors(shard.tensors, kPtMetadata)});
  for (const Shard& shard : plan_shards(specs_of(content.optimizer)))
    files.push_back({"optimizer" + shard.file.substr(std::string_view("model").size()), plan_safetensors(shard.tensors, kPtMetadata)});
  return files;
}

void check_space(const fs::path& checkpoints, const std::vector<PlannedFile>& files) {
  uint64_t needed = kSpareBytes;
  for (const PlannedFile& file : files) needed += file.plan.size;
  const uint64_t free = free_bytes(checkpoints);
  if (free < needed)
    fail(ExitCode::io, "checkpoint: {} has {} MB left, a checkpoint needs {} MB; free some space or lower checkpoint.keep", checkpoints.string(),
         free >> 20, (needed >> 20) + 1);
}

/// Writes parts in the order of the file and digests what lies without a gap as one piece.
class PartWriter {
 public:
  explicit PartWriter(const fs::path& path) : file_(path) {}

  void write(uint64_t at, std::span<const std::byte> bytes) {
    if (bytes.empty()) return;
    if (pieces_.empty() || pieces_.back().end != at) {
      close_piece();
      pieces_.push_back({at, at, {}});
    }
    file_.write_at(at, bytes);
    digest_->update(bytes);
    pieces_.back().end += bytes.size();
  }

  std::vector<Piece> finish() {
    close_piece();
    file_.sync();
    return std::move(pieces_);
  }

 private:
  void close_piece() {
    if (!pieces_.empty()) pieces_.back().sha256 = digest_->hex();
    digest_.emplace();
  }

  SharedFile file_;
  std::vector<Piece> pieces_;
  std::optional<Sha256> digest_;
};

/// The files that others left: all that are in the folder and not ours.
std::vector<ManifestFile> written_by_others(const fs::path& folder, const std::vector<ManifestFile>& ours) {
  std::set<std::string> known;
  for (const ManifestFile& file : ours) known.insert(file.name);
  std::vector<ManifestFile> files;
  for (const std::string& name : names_in(folder)) {
    if (known.contains(name)) continue;
    const fs::path path = folder / name;
    if (!fs::is_regular_file(fs::symlink_status(path))) fail(ExitCode::failure, "checkpoint: {} is not a plain file", path.string());
    const uint64_t size = fs::file_size(path);
    files.push_back({name, size, {{0, size, sha256_file(path)}}});
  }
  return files;
}

/// Any 64 bits that another save of the same step will not have.
std::string new_save_id() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
  return fmt::format("{:016x}", random_bits({static_cast<uint64_t>(now), static_cast<uint64_t>(getpid())}));
}

/// Puts the pieces of all ranks together; they must cover each file without gap or overlap.
std::vector<ManifestFile> join_pieces(const std::vector<PlannedFile>& plans, const std::vector<std::string>& by_rank) {
  std::map<std::string, std::vector<Piece>> pieces;
  for (const std::string& text : by_rank) {
    const Json json = parse_json(text, "pieces");  // kept alive while its items are walked
    for (const auto& [name, list] : json.items())
      for (const Json& piece : list)
        pieces[name].push_back({piece.at(0).get<uint64_t>(), piece.at(1).get<uint64_t>(), piece.at(2).get<std::string>()});
  }
  std::vector<ManifestFile> files;
  for (const PlannedFile& planned : plans) {
    ManifestFile file{planned.name, planned.plan.size, std::move(pieces[planned.name])};
    std::sort(file.pieces.begin(), file.pieces.end(), [](const Piece& a, const Piece& b) { return a.begin < b.begin; });
    uint64_t at = 0;
    for (const Piece& piece : file.pieces) {
      if (piece.begin != at) fail(ExitCode::failure, "checkpoint: {}: the ranks leave a gap or overlap at byte {}", file.name, at);
      at = piece.end;
    }
    if (at != file.size) fail(ExitCode::failure, "checkpoint: {}: the ranks wrote {} of {} bytes", file.name, at, file.size);
    files.push_back(std::move(file));
  }
  return files;
}

}  // namespace

TensorPart::TensorPart(std::string name, const at::Tensor& whole)
    : spec{std::move(name), whole.scalar_type(), whole.sizes().vec()}, elements(whole.detach().reshape({-1})) {}

TensorPart::TensorPart(TensorSpec tensor, int64_t first, const at::Tensor& some)
    : spec(std::move(tensor)), begin(first), elements(some.detach().reshape({-1})) {}

CheckpointWriter::CheckpointWriter(fs::path checkpoints, Communicator& comm) : checkpoints_(std::move(checkpoints)), comm_(comm) {}

CheckpointWriter::~CheckpointWriter() {
  if (thread_.joinable()) thread_.join();
}

void CheckpointWriter::begin(int64_t step, CheckpointContent content, Digests digests, bool background) {
  if (under_way_) fail(ExitCode::failure, "checkpoint: a save of step {} is asked for while that of step {} is under way", step, step_);
  step_ = step;
  content_ = std::move(content);
  digests_ = std::move(digests);
  failure_ = nullptr;
  written_ = false;
  try {
    kept_ = together(comm_, "start of checkpoint", [&] { return comm_.rank() == 0 ? prepare() : ""; })[0] == "kept";
  } catch (...) {
    remove_unfinished();
    throw;
  }
  under_way_ = true;
  if (kept_) {
    written_ = true;
  } else if (background) {
    for (auto* tensors : {&content_.model, &content_.optimizer})
      for (TensorPart& tensor : *tensors) tensor.elements = tensor.elements.to(at::kCPU, /*non_blocking=*/false, /*copy=*/true);
    thread_ = std::thread([this] { write_parts(); });
  } else {
    write_parts();
  }
}

/// Makes the folder and its files, with room for all tensors. Returns "kept" when the checkpoint is there already.
std::string CheckpointWriter::prepare() {
  if (!fs::exists(checkpoints_)) {
    make_directories(checkpoints_);
    sync_directory(fs::absolute(checkpoints_).parent_path());
  }
  const fs::path folder = checkpoints_ / step_name(step_);
  if (fs::exists(folder / kManifest) && verify_checkpoint(folder).empty() && read_manifest(folder).digests == digests_) return "kept";
  remove_checkpoint(folder);
  const auto files = plan_files(content_);
  check_space(checkpoints_, files);
  make_directories(folder);
  sync_directory(checkpoints_);
  for (const PlannedFile& file : files) SharedFile::create(folder / file.name, file.plan.size);
  return "";
}

void CheckpointWriter::write_parts() {
  try {
    std::map<std::string, const TensorPart*> parts;
    for (const auto* tensors : {&content_.model, &content_.optimizer})
      for (const TensorPart& part : *tensors)
        FUSION_CHECK(parts.emplace(part.spec.name, &part).second, "checkpoint: two tensors named '{}'", part.spec.name);
    Json pieces = Json::object();
    for (const PlannedFile& file : plan_files(content_)) {
      PartWriter writer(checkpoints_ / step_name(step_) / file.name);
      if (comm_.rank() == 0) writer.write(0, std::as_bytes(std::span(file.plan.head)));
      for (const TensorSpec& spec : file.plan.tensors) {
        const TensorPart& part = *parts.at(spec.name);
        const at::Tensor host = part.elements.to(at::kCPU).contiguous();
        const uint64_t at = file.plan.at.at(spec.name) + static_cast<uint64_t>(part.begin) * host.element_size();
        writer.write(at, {static_cast<const std::byte*>(host.const_data_ptr()), host.nbytes()});
      }
      for (const Piece& piece : writer.finish()) pieces[file.name].push_back({piece.begin, piece.end, piece.sha256});
    }
    pieces_ = dump_json(pieces, -1);
  } catch (...) {
    failure_ = std::current_exception();
  }
  written_ = true;
}

void CheckpointWriter::commit() {
  if (!under_way_) fail(ExitCode::failure, "checkpoint: commit without a save");
  if (thread_.joinable()) thread_.join();
  under_way_ = false;
  if (kept_) return;
  try {
    const auto pieces = together(comm_, "parts of checkpoint", [&] {
      if (failure_) std::rethrow_exception(failure_);
      return pieces_;
    });
    together(comm_, "end of checkpoint", [&] {
      if (comm_.rank() == 0) finish(pieces);
      return "";
    });
  } catch (...) {
    remove_unfinished();
    throw;
  }
  content_ = {};
}

void CheckpointWriter::finish(const std::vector<std::string>& pieces) {
  const fs::path folder = checkpoints_ / step_name(step_);
  Manifest manifest{step_, new_save_id(), digests_, comm_.world(), join_pieces(plan_files(content_), pieces)};
  if (const std::string index = weights_index(plan_shards(specs_of(content_.model))); !index.empty()) write_file(folder / kWeightsIndex, index);
  write_file(folder / "state.json", dump_json(content_.state));
  if (content_.add_files) content_.add_files(folder);
  for (ManifestFile& file : written_by_others(folder, manifest.files)) manifest.files.push_back(std::move(file));
  sync_directory(folder);
  write_file(folder / kManifest, manifest_text(manifest));
  try {
    write_file(checkpoints_ / "latest", folder.filename().string() + "\n");
  } catch (const Error& error) {
    log::warn("checkpoint: {} is complete, but the hint 'latest' is not: {}", folder.string(), error.what());
  }
}

void CheckpointWriter::remove_unfinished() {
  content_ = {};
  if (comm_.rank() != 0) return;
  try {
    remove_checkpoint(checkpoints_ / step_name(step_));
  } catch (const std::exception& error) {  // the first error is the one to report
    log::warn("checkpoint: {}", error.what());
  }
}

void save_checkpoint(const fs::path& checkpoints, int64_t step, const CheckpointContent& content, const Digests& digests) {
  SingleProcess alone;
  CheckpointWriter writer(checkpoints, alone);
  writer.begin(step, content, digests, /*background=*/false);
  writer.commit();
}

}  // namespace fusion
