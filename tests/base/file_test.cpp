#include "fusion/base/file.h"

#include "errors.h"
#include "fusion/base/log.h"
#include "fusion/base/patient_writer.h"
#include "fusion/base/random.h"
#include "temp_folder.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace fusion {
namespace {

using test::TempFolder;

int entries(const fs::path& folder) { return static_cast<int>(std::distance(fs::directory_iterator(folder), {})); }

TEST(File, WritesWholeAndPrivate) {
  TempFolder folder;
  const auto path = folder / "a.txt";
  write_file(path, "one");
  write_file(path, "two");
  EXPECT_EQ(read_file(path), "two");
  struct stat status;
  ASSERT_EQ(stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  EXPECT_EQ(entries(folder.path()), 1);
  EXPECT_EQ(sha256_text("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_file(path), sha256_text("two"));
}

TEST(File, UncommittedFilesVanish) {
  TempFolder folder;
  write_file(folder / "a", "old");
  {
    AtomicFile file(folder / "a");
    file.write("new");
    EXPECT_EQ(file.sha256(), sha256_text("new"));
    file.write(" and more");
    EXPECT_EQ(file.size(), 12u);
    EXPECT_EQ(entries(folder.path()), 2);
  }
  EXPECT_EQ(read_file(folder / "a"), "old");
  EXPECT_EQ(entries(folder.path()), 1);
}

TEST(File, DoesNotFollowALinkWhenItWrites) {
  TempFolder folder;
  write_file(folder / "victim", "keep");
  fs::create_symlink("victim", folder / "link");
  write_file(folder / "link", "new");  // the name becomes the new file
  EXPECT_EQ(read_file(folder / "victim"), "keep");
  fs::remove(folder / "link");
  fs::create_symlink("victim", folder / "link");
  EXPECT_FAILS(LineWriter(folder / "link"), ExitCode::io, "link");
  EXPECT_FAILS(FileLock(folder / "link"), ExitCode::io, "link");
}

TEST(File, NamesThePathInErrors) {
  TempFolder folder;
  EXPECT_FAILS(read_file(folder / "none"), ExitCode::io, "none: No such file or directory");
  EXPECT_FAILS(read_file(folder.path()), ExitCode::io, "not a regular file");
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_FAILS(read_file(folder / "pipe"), ExitCode::io, "not a regular file");  // and does not wait for a writer
  EXPECT_FAILS(MappedFile(folder / "none"), ExitCode::io, "none");
  EXPECT_FAILS(write_file(folder / "no/such", "x"), ExitCode::io, "no/such");
  write_file(folder / "big", std::string(100, 'x'));
  EXPECT_FAILS(read_file(folder / "big", 99), ExitCode::io, "100 bytes, the limit is 99");
  EXPECT_FAILS(make_directories(folder / "big/below"), ExitCode::io, "big/below");
}

TEST(File, Maps) {
  TempFolder folder;
  write_file(folder / "a", "text");
  write_file(folder / "empty", "");
  MappedFile a(folder / "a");
  MappedFile b = std::move(a);
  EXPECT_EQ(b.text(), "text");
  EXPECT_EQ(a.size(), 0u);
  EXPECT_EQ(MappedFile(folder / "empty").text(), "");
  a = std::move(b);
  EXPECT_EQ(a.text(), "text");
}

TEST(File, LinesAreKeptUpToTheCheckpoint) {
  TempFolder folder;
  const auto path = folder / "log.jsonl";
  uint64_t kept;
  {
    LineWriter lines(path);
    lines.append("one");
    lines.sync();
    kept = lines.size();
    lines.append("two");
  }
  {
    LineWriter lines(path, static_cast<int64_t>(kept));
    EXPECT_EQ(lines.size(), kept);
    lines.append("three");
  }
  EXPECT_EQ(read_file(path), "one\nthree\n");
  write_file(path, "torn");
  LineWriter(path).append("next");
  EXPECT_EQ(read_file(path), "torn\nnext\n");
}

TEST(File, LinesThatFindTheDiskFullWaitAndComeLater) {
  TempFolder folder;
  const auto path = folder / "log.jsonl";
  const auto limit = [](rlim_t bytes) {
    const rlimit size{bytes, RLIM_INFINITY};
    setrlimit(RLIMIT_FSIZE, &size);
  };
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  log::setup("info");
  testing::internal::CaptureStderr();
  PatientWriter lines(path);
  lines.append("first");
  limit(10);
  lines.append("second is cut in the middle");
  lines.append("third");
  EXPECT_FAILS(lines.sync(), ExitCode::io, "log.jsonl");
  EXPECT_EQ(read_file(path), "first\n");
  EXPECT_EQ(lines.size(), 6u);
  limit(RLIM_INFINITY);
  lines.append("fourth");
  lines.sync();
  ::signal(SIGXFSZ, handler);
  EXPECT_EQ(read_file(path), "first\nsecond is cut in the middle\nthird\nfourth\n");
  EXPECT_EQ(lines.size(), read_file(path).size());
  const std::string told = testing::internal::GetCapturedStderr();
  EXPECT_EQ(told.find("waits in memory"), told.rfind("waits in memory")) << told;  // once
  EXPECT_NE(told.find("complete again"), std::string::npos) << told;
}

/// Runs `body` in a child process; returns its wait status.
int in_child(const std::function<void()>& body) {
  const pid_t pid = fork();
  if (pid == 0) {
    try {
      body();
    } catch (const Error& error) {
      _exit(static_cast<int>(error.code()));
    }
    _exit(0);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return status;
}

TEST(File, LockNamesItsHolder) {
  TempFolder folder;
  const auto path = folder / "lock";
  {
    FileLock lock(path);
    EXPECT_FAILS(FileLock{path}, ExitCode::usage, fmt::format("pid {}", getpid()));
    EXPECT_EQ(WEXITSTATUS(in_child([&] { FileLock second(path); })), 2);
  }
  FileLock again(path);  // free after the holder is gone
}

TEST(File, NoSpaceLeavesTheOldFile) {
  TempFolder folder;
  write_file(folder / "a", "old");
  const int status = in_child([&] {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1000, 1000};
    setrlimit(RLIMIT_FSIZE, &limit);
    write_file(folder / "a", std::string(5000, 'x'));
  });
  EXPECT_EQ(WEXITSTATUS(status), static_cast<int>(ExitCode::io));
  EXPECT_EQ(read_file(folder / "a"), "old");
  EXPECT_EQ(entries(folder.path()), 1);
}

TEST(File, AKillNeverLeavesATornFile) {
  TempFolder folder;
  const auto path = folder / "a";
  const std::string content[2] = {std::string(300000, 'a'), std::string(200000, 'b')};
  write_file(path, content[0]);
  RandomStream draw({5});
  int both[2] = {};
  for (int trial = 0; trial < 40; ++trial) {
    const pid_t pid = fork();
    if (pid == 0) {
      for (int i = 1;; ++i) write_file(path, content[i % 2]);
    }
    usleep(static_cast<useconds_t>(1000 + draw.below(6000)));
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    const std::string now = read_file(path);
    ASSERT_TRUE(now == content[0] || now == content[1]) << now.size();
    ++both[now == content[1]];
  }
  EXPECT_GT(both[0], 0);  // the kills did hit different moments
  EXPECT_GT(both[1], 0);
}

TEST(File, FoldersAndSpace) {
  TempFolder folder;
  make_directories(folder / "x/y");
  make_directories(folder / "x/y");
  write_file(folder / "x/y/f", "1");
  rename_durably(folder / "x", folder / "z");
  EXPECT_EQ(read_file(folder / "z/y/f"), "1");
  EXPECT_FAILS(rename_durably(folder / "x", folder / "q"), ExitCode::io, "No such file");
  remove_tree(folder / "z");
  remove_tree(folder / "z");
  EXPECT_EQ(entries(folder.path()), 0);
  EXPECT_GT(free_bytes(folder.path()), 0u);
  EXPECT_GT(read_file("/proc/self/status").size(), 100u);
}

}  // namespace
}  // namespace fusion
