// A log that a full disk does not stop: what cannot be written waits in memory and goes out with what comes next.
#pragma once

#include "fusion/base/file.h"

namespace fusion {

class PatientWriter {
 public:
  /// As LineWriter; opening does not wait but throws.
  explicit PatientWriter(const fs::path& path, int64_t keep_bytes = -1, bool lines = true) : path_(path), file_(path, keep_bytes, lines) {}

  void append(std::string_view line) { append_bytes(std::string(line) + '\n'); }
  /// Warns when the first bytes have to wait, and says when all are written again.
  void append_bytes(std::string_view bytes);
  /// Makes all durable. Throws ExitCode::io when it cannot.
  void sync();
  /// Of the file: all that was appended, once sync() has returned.
  uint64_t size() const { return file_.size(); }

 private:
  void write();

  fs::path path_;
  LineWriter file_;
  std::string waiting_;
  bool late_ = false;  // some of waiting_ could not be written before
};

}  // namespace fusion
