// A scratch folder of small files, and the message of the error that a call must end with.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "fusion/base/error.h"
#include "fusion/base/file.h"
#include "fusion/config/config.h"

namespace fusion::test {

class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "fusion-config-XXXXXX").string();
    path_ = fs::canonical(mkdtemp(name.data()));
  }
  ~Folder() { fs::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  /// Writes a file and returns its path.
  std::string file(const std::string& name, const std::string& text) const {
    fs::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name) << text;
    return (path_ / name).string();
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

/// The text of the usage error that `call` throws; a test failure when it does not.
template <class Call>
std::string usage_error(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

/// The smallest complete model for tests: every check of the defaults holds.
inline const char* kSmall = "decoder: {hidden_size: 32, num_attention_heads: 4, num_key_value_heads: 4, num_hidden_layers: 30}\n";

}  // namespace fusion::test
