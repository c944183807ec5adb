#include "fusion/base/log.h"
#include "model_arguments.h"
#include "tools.h"

#include <unistd.h>

#include <cstdio>
#include <iostream>

namespace fusion::tools {
namespace {

struct ChatArguments {
  ModelArguments model;
  SamplingArguments sampling;
  std::string image;
};

constexpr const char* kHelp = "Type a question. /image FILE shows a picture and starts anew, /reset forgets the conversation, /quit leaves.\n";

void print_piece(std::string_view piece) {
  std::fwrite(piece.data(), 1, piece.size(), stdout);
  std::fflush(stdout);
}

/// The rest of a line after a command word; empty when the line is another command.
std::optional<std::string> after(const std::string& line, std::string_view command) {
  if (line.compare(0, command.size(), command) != 0) return std::nullopt;
  const std::string rest = line.substr(command.size());
  if (!rest.empty() && rest[0] != ' ') return std::nullopt;
  const auto first = rest.find_first_not_of(' ');
  return first == std::string::npos ? "" : rest.substr(first, rest.find_last_not_of(' ') - first + 1);
}

/// One line of the user. False: leave.
bool handle(const std::string& line, Conversation& conversation, const GenerateOptions& options) {
  if (line.find_first_not_of(" \t\r") == std::string::npos) return true;
  if (after(line, "/quit")) return false;
  if (after(line, "/reset")) {
    conversation.reset();
  } else if (const auto image = after(line, "/image")) {
    FUSION_CHECK(fs::is_regular_file(*image), "chat: '{}' is no file; /image FILE shows a picture", *image);
    conversation.show(*image);
  } else if (line[0] == '/') {
    print_piece(kHelp);
  } else {
    const Answer answer = conversation.ask(line, options, print_piece);
    print_piece("\n");
    if (!answer.complete) log::warn("chat: the answer is cut at {} tokens (--max-new-tokens)", options.max_new_tokens);
  }
  return true;
}

void chat(const ChatArguments& arguments) {
  const LoadedModel model = arguments.model.load();
  GenerateOptions options = arguments.sampling.options;
  options.query_len = arguments.model.query_len;
  Conversation conversation(model);
  if (!arguments.image.empty()) conversation.show(arguments.image);
  const bool person = isatty(STDIN_FILENO) == 1;
  if (person) print_piece(kHelp);
  for (std::string line;;) {
    if (person) print_piece("> ");
    if (!std::getline(std::cin, line)) break;
    try {
      if (!handle(line, conversation, options)) return;
    } catch (const Error& error) {  // a broken picture or a conversation that grew too long: the next line may mend it
      log::error("{}", log::printable(error.what()));
    }
  }
  if (person) print_piece("\n");
}

}  // namespace

void add_chat(CLI::App& app, ExitCode&) {
  auto arguments = std::make_shared<ChatArguments>();
  CLI::App* command = app.add_subcommand("chat", "Talk with a model about a picture in the terminal.");
  command->add_option("--image", arguments->image, "Picture to begin with")->check(CLI::ExistingFile);
  arguments->model.add_to(*command);
  arguments->sampling.add_to(*command);
  command->callback([arguments] { chat(*arguments); });
}

}  // namespace fusion::tools
