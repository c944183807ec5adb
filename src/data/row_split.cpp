#include "row_split.h"

#include "fusion/base/error.h"

#include <array>
#include <cstring>

namespace fusion {
namespace {

/// Past the string whose opening quote is at `at`; `end` when it never closes.
const char* skip_string(const char* at, const char* end) {
  for (const char* from = at + 1; from < end;) {
    const auto* quote = static_cast<const char*>(std::memchr(from, '"', static_cast<size_t>(end - from)));
    if (!quote) return end;
    const char* slash = quote;
    while (slash > at + 1 && slash[-1] == '\\') --slash;
    from = quote + 1;
    if ((quote - slash) % 2 == 0) return from;  // an even number of backslashes does not escape the quote
  }
  return end;
}

// Characters outside strings at which the depth may change or a row may end.
constexpr auto kMarks = [] {
  std::array<bool, 256> marks{};
  for (const unsigned char c : {'"', '{', '}', '[', ']', ','}) marks[c] = true;
  return marks;
}();

}  // namespace

bool is_json_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

JsonSplitter::JsonSplitter(const fs::path& path, std::string_view text)
    : path_(path), text_(text), lines_(path.extension() == ".jsonl"), at_(text.data()), last_(at_ + text.size()) {
  if (lines_) return;
  if (text.starts_with("\xEF\xBB\xBF")) at_ += 3;
  skip_space();
  if (at_ == last_ || *at_ != '[')
    fail(ExitCode::data, "data: {}: an array of samples must begin here; one sample per line needs the ending .jsonl", place());
  ++at_;
  skip_space();
  open_ = at_ == last_ || *at_ != ']';
  if (!open_) close_array();
}

std::vector<uint64_t> JsonSplitter::next(uint64_t bytes) {
  std::vector<uint64_t> rows;
  const uint64_t stop = end() + bytes;
  lines_ ? next_lines(stop, rows) : next_elements(stop, rows);
  return rows;
}

void JsonSplitter::next_lines(uint64_t stop, std::vector<uint64_t>& rows) {
  while (at_ < last_ && end() < stop) {
    const auto* line_end = static_cast<const char*>(std::memchr(at_, '\n', static_cast<size_t>(last_ - at_)));
    if (!line_end) line_end = last_;
    const char* first = at_;
    while (first < line_end && is_json_space(*first)) ++first;
    if (first == line_end) fail(ExitCode::data, "data: {}:{}: blank line; each line must hold one sample", path_.string(), found_ + 1);
    rows.push_back(end());
    ++found_;
    at_ = line_end == last_ ? last_ : line_end + 1;
  }
}

void JsonSplitter::next_elements(uint64_t stop, std::vector<uint64_t>& rows) {
  while (open_ && end() < stop) {
    skip_space();
    const char* const row = at_;
    int64_t depth = 0;
    for (; at_ < last_; ++at_) {
      const char c = *at_;
      if (!kMarks[static_cast<unsigned char>(c)]) continue;
      if (c == '"') {
        at_ = skip_string(at_, last_) - 1;
      } else if (c == '{' || c == '[') {
        ++depth;
      } else if (c == '}' || c == ']') {
        if (depth == 0) break;
        --depth;
      } else if (depth == 0) {
        break;
      }
    }
    if (at_ >= last_) {
      at_ = last_;
      fail(ExitCode::data, "data: {}: the file ends inside row {} (byte {}); it is cut off or a bracket is missing", place(), found_,
           row - text_.data());
    }
    if (at_ == row || *at_ == '}') fail(ExitCode::data, "data: {}: '{}' where row {} is expected", place(), *at_, found_);
    rows.push_back(static_cast<uint64_t>(row - text_.data()));
    ++found_;
    open_ = *at_ == ',';
    if (open_)
      ++at_;
    else
      close_array();
  }
}

// At the closing bracket: nothing but white space may follow. The bracket's place stays the end of the rows.
void JsonSplitter::close_array() {
  const char* const bracket = at_++;
  skip_space();
  if (at_ != last_) fail(ExitCode::data, "data: {}: text after the end of the array", place());
  at_ = bracket;
}

void JsonSplitter::skip_space() {
  while (at_ < last_ && is_json_space(*at_)) ++at_;
}

std::string JsonSplitter::place() const { return fmt::format("{}: byte {}", path_.string(), end()); }

}  // namespace fusion
