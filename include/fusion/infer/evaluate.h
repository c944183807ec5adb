// Loss and exact match over a held-out file, by teacher forcing: the in-loop evaluation of training and `fusion eval` are this one function.
#pragma once

#include "fusion/base/json.h"
#include "fusion/data/loader.h"
#include "fusion/dist/communicator.h"
#include "fusion/model/fusion_model.h"

namespace fusion {

struct EvaluateOptions {
  SampleOptions sample;          // over_length is taken as reject: a cut answer cannot be right
  int64_t query_len = 0;         // latents per question, as inference_query_len gives it
  int64_t batch = 16;            // samples per forward pass; 1 where a batch's longest sample decides numbers (tune.pad_rows, decoder.longrope_by)
  int64_t samples = 0;           // first samples of the file that are used; 0 = all
  int64_t workers = 2;           // threads that prepare samples
  std::string title = "eval";    // of the progress bar
  Communicator* comm = nullptr;  // its ranks share the file out and get the same figures; null = this process does all of it
};

struct Evaluation {
  // Averages over the file: ce over supervised tokens, v2t over instruct tokens, t2v over image rows; loss as loss.dsm and loss.dsm_weight say.
  double loss = 0, ce = 0, v2t = 0, t2v = 0;
  int64_t samples = 0, tokens = 0;  // used samples; supervised tokens
  int64_t answers = 0, exact = 0;   // an answer is exact when greedy decoding gives all its tokens and its end
  int64_t tokens_right = 0;
  int64_t commonest = 0;  // answers that are the commonest one of their question's text in this file
  std::vector<Rejection> rejected;

  double exact_match() const { return ratio(exact, answers); }
  double token_accuracy() const { return ratio(tokens_right, tokens); }
  /// Exact match of always giving the commonest answer of a question.
  double baseline() const { return ratio(commonest, answers); }
  /// {"loss", "ce", "v2t", "t2v", "exact_match", "baseline", "token_accuracy", "samples", "answers", "tokens", "rejected"}
  Json to_json() const;

 private:
  static double ratio(int64_t part, int64_t whole) { return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole); }
};

/// Throws ExitCode::data with the first reason when no sample of the file can be used.
Evaluation evaluate(const FusionModel& model, std::shared_ptr<const Mixture> data, std::shared_ptr<const ConversationEncoder> encoder,
                    const EvaluateOptions& options);

/// The questions of a sample that training accepts, without <image> and stripped like their answers; `turn` is the question's place in the turns.
struct QuestionAnswer {
  std::string question, answer;
  int64_t turn = 0;
};
std::vector<QuestionAnswer> question_answers(const Sample& sample);

}  // namespace fusion
