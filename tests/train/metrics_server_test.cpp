// The port for Prometheus as raw sockets meet it.
#include "fusion/train/metrics_server.h"

#include "errors.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

namespace fusion {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

/// A connection to the server's port.
class Client {
 public:
  explicit Client(int64_t port) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  ~Client() { ::close(fd_); }
  void send(const std::string& text) { ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL); }
  void end() { ::shutdown(fd_, SHUT_WR); }
  /// All that comes until the server closes.
  std::string receive() {
    std::string all;
    char bytes[4096];
    for (ssize_t got; (got = ::recv(fd_, bytes, sizeof bytes, 0)) > 0;) all.append(bytes, static_cast<size_t>(got));
    return all;
  }

 private:
  int fd_;
};

std::string ask(int64_t port, const std::string& request) {
  Client client(port);
  client.send(request);
  client.end();
  return client.receive();
}

const std::string kGet = "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

TEST(MetricsServer, AnswersWithTheNewestText) {
  MetricsServer server(0);
  ASSERT_GT(server.port(), 0);
  EXPECT_THAT(ask(server.port(), kGet), HasSubstr("Content-Length: 0\r\n"));
  server.publish("a 1\n");
  EXPECT_EQ(ask(server.port(), kGet),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: 4\r\nConnection: close\r\n\r\na 1\n");
  std::string large(3'000'000, 'x');  // more than a socket's buffer
  server.publish(large);
  EXPECT_TRUE(ask(server.port(), "GET /metrics?x=1 HTTP/1.0\r\n\r\n").ends_with("\r\n\r\n" + large));
}

TEST(MetricsServer, RefusesWhatIsNoRequestForIt) {
  MetricsServer server(0);
  server.publish("secret");
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405 "},
      {"GET /etc/passwd HTTP/1.1\r\n\r\n", "HTTP/1.1 404 "},
      {"GET /metrics/../x HTTP/1.1\r\n\r\n", "HTTP/1.1 404 "},
      {"GET /metricsx HTTP/1.1\r\n\r\n", "HTTP/1.1 404 "},
      {"GET /metrics\r\n\r\n", "HTTP/1.1 400 "},
      {"\r\n\r\n", "HTTP/1.1 400 "},
      {std::string("\x16\x03\x01\0\x05", 5) + "\r\n\r\n", "HTTP/1.1 400 "},
      {"GET /metrics HTTP/1.1\r\nX: " + std::string(100'000, 'x') + "\r\n\r\n", "HTTP/1.1 431 "},
      {"GET /metrics HTTP/1.1\r\n", ""},  // the rest never comes
      {"", ""}};
  for (const auto& [request, start] : cases) {
    const std::string answer = ask(server.port(), request);
    EXPECT_THAT(answer, StartsWith(start)) << request.substr(0, 40);
    EXPECT_EQ(answer.empty(), start.empty()) << request.substr(0, 40);
    EXPECT_THAT(answer, testing::Not(HasSubstr("secret")));
  }
  EXPECT_THAT(ask(server.port(), kGet), HasSubstr("secret"));
}

TEST(MetricsServer, NobodyHoldsItUp) {
  auto server = std::make_unique<MetricsServer>(0);
  server->publish("a 1\n");
  Client silent(server->port());  // connects and says nothing
  Client slow(server->port());    // begins and never ends
  slow.send("GET /met");
  {
    Client gone(server->port());  // asks and leaves
    gone.send(kGet);
  }
  EXPECT_THAT(ask(server->port(), kGet), HasSubstr("a 1\n"));
  EXPECT_EQ(silent.receive(), "");  // sent away
  EXPECT_EQ(slow.receive(), "");
  // One that never reads its answer does not hold up the end either.
  server->publish(std::string(10'000'000, 'x'));
  Client deaf(server->port());
  deaf.send(kGet);
  server.reset();
}

TEST(MetricsServer, APortThatIsTakenIsAUserError) {
  MetricsServer server(0);
  EXPECT_FAILS(MetricsServer(server.port()), ExitCode::usage, "log.prometheus_port=" + std::to_string(server.port()));
}

TEST(MetricsServer, ListensOnThisMachineOnly) {
  MetricsServer server(0);
  std::ifstream table("/proc/net/tcp");  // local address and port in hexadecimal
  std::ostringstream text;
  text << table.rdbuf();
  char any[16], loopback[16];
  std::snprintf(any, sizeof any, "00000000:%04X", static_cast<unsigned>(server.port()));
  std::snprintf(loopback, sizeof loopback, "0100007F:%04X", static_cast<unsigned>(server.port()));
  EXPECT_THAT(text.str(), HasSubstr(loopback));
  EXPECT_THAT(text.str(), testing::Not(HasSubstr(any)));
}

}  // namespace
}  // namespace fusion
