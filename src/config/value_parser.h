// Scanner of the right side of an override: quoted and plain texts, lists, dicts. Sweeps add functions and comma lists (sweep.cpp).
#pragma once

#include "fusion/config/node.h"

namespace fusion {

class ValueParser {
 public:
  /// Both must outlive the parser; `argument` is what messages show.
  ValueParser(const std::string& text, const std::string& argument) : text_(text), argument_(argument) {}

  /// The whole text as one value.
  Node parse();

 protected:
  /// A value that ends before one of `stops`, at a top-level comma or at the end of the text.
  Node element(std::string_view stops);
  void skip_blanks();
  char here() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  [[noreturn]] void stop(const std::string& reason) const;

  const std::string& text_;
  const std::string& argument_;
  size_t at_ = 0;

 private:
  Node list();
  Node dict();
  Node open(Node::Kind kind);
  bool close(char bracket);
  void next(char bracket);
  Node quoted();
  Node plain(std::string_view stops);
  void check_plain(char c) const;
  std::string interpolation();

  int depth_ = 0;
};

}  // namespace fusion
