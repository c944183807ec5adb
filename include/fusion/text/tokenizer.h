// Tokenizers of Hugging Face style folders: SentencePiece (tokenizer.model) and byte-level BPE (tokenizer.json). Source: formats.md 3.
#pragma once

#include "fusion/base/file.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fusion {

using Ids = std::vector<int64_t>;

/// Bytes <-> ids exactly as the official code's tokenizer classes do. Thread safe after construction.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Ids of `text`. `special`: add what the class adds at the start (bos of LLaMA-3 and Vicuna). `begins`, when given, receives for each id the byte
  /// of `text` where its text begins. Throws ExitCode::data on bad UTF-8.
  virtual Ids encode(std::string_view text, bool special = true, std::vector<int64_t>* begins = nullptr) const = 0;
  /// Text of `ids`; invalid UTF-8 becomes U+FFFD. `skip_special` leaves out special tokens as the official classes do. Ids without a token add
  /// nothing.
  virtual std::string decode(const Ids& ids, bool skip_special = false) const = 0;
  /// Id of an added or ordinary token given by its exact content; empty when there is none.
  virtual std::optional<int64_t> token_id(std::string_view token) const = 0;

  int64_t size() const { return size_; }                  // vocabulary with added tokens
  int64_t appended() const { return appended_; }          // of these, the vision tokens that the folder lacked
  std::optional<int64_t> bos_id() const { return bos_; }  // id only; encode() decides whether it is added
  bool adds_bos() const { return adds_bos_; }
  int64_t pad_id() const { return pad_; }  // pad = unk as set by the official training
  int64_t eos_id() const { return eos_; }
  /// SHA-256 over everything that decides ids; stored in checkpoints.
  const std::string& digest() const { return digest_; }
  /// Writes the folder's tokenizer files, the two vision tokens included, so that the official code and load_tokenizer read them.
  virtual void save(const fs::path& folder) const = 0;

 protected:
  int64_t size_ = 0, appended_ = 0, pad_ = 0, eos_ = 0;
  std::optional<int64_t> bos_;
  bool adds_bos_ = false;
  std::string digest_;
};

/// Loads a folder, picks the class from its files and appends <vision_start> and <vision_end> as special tokens when they are missing.
/// Throws ExitCode::usage with file, key and the way out for folders that it cannot follow exactly.
std::shared_ptr<const Tokenizer> load_tokenizer(const fs::path& folder);

}  // namespace fusion
