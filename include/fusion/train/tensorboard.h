// TensorBoard's event files, written without its libraries (docs: TensorBoard's event_file_writer; the records are TFRecords).
#pragma once

#include "fusion/train/observer.h"

namespace fusion {

/// One file of a run. A resumed run opens another one and says from which step it counts: TensorBoard then drops later points of older files.
class EventFile {
 public:
  /// Makes events.out.tfevents.<time>.<host>.<pid> in `folder`. `first_step`: steps done before; what earlier files of
  /// the folder hold beyond them does not count, also after a run that was killed before its first checkpoint.
  EventFile(const fs::path& folder, int64_t first_step);
  /// Scalars of one step, each under its tag.
  void scalars(int64_t step, const Figures& values);
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
  PatientWriter file_;
};

/// The event file of a stage: step_figures and evaluation_figures (train/figures.h).
std::unique_ptr<Observer> make_tensorboard(const fs::path& folder, int64_t first_step, Figures rates, c10::Device device);

/// CRC-32C (Castagnoli), as TFRecords use it.
uint32_t crc32c(std::string_view bytes);

}  // namespace fusion
