#include "fusion/base/patient_writer.h"

#include "fusion/base/error.h"
#include "fusion/base/log.h"

namespace fusion {

void PatientWriter::append_bytes(std::string_view bytes) {
  waiting_ += bytes;
  try {
    write();
  } catch (const Error& error) {
    if (error.code() != ExitCode::io) throw;
    if (!late_) log::warn("{}. What belongs into it waits in memory and is tried again with what follows", error.what());
    late_ = true;
  }
}

void PatientWriter::sync() {
  write();
  file_.sync();
}

void PatientWriter::write() {
  if (waiting_.empty()) return;
  file_.append_bytes(waiting_);
  if (late_) log::info("file: {} is complete again", path_.string());
  waiting_.clear();
  late_ = false;
}

}  // namespace fusion
