#include "fusion/infer/evaluate.h"

#include "fusion/base/progress.h"
#include "fusion/data/ledger.h"
#include "fusion/text/unicode.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <map>

namespace fusion {
namespace {

/// Supervised tokens of each answer of a sample, in order. A question end starts the next answer.
std::vector<int64_t> answer_lengths(const Batch& batch, int64_t sample) {
  std::vector<int64_t> lengths;
  for (int64_t i = batch.tokens.at[static_cast<size_t>(sample)]; i < batch.tokens.at[static_cast<size_t>(sample) + 1]; ++i) {
    const int64_t label = batch.labels[static_cast<size_t>(i)];
    if (label == kInstruct) lengths.push_back(0);
    if (label >= 0) ++lengths.back();
  }
  return lengths;
}

/// Sums over the file, in double precision.
class Sums {
 public:
  void add(const LossSums& sums) {
    add(sums.ce, sums.ce_count, ce_, ce_count_);
    add(sums.v2t, sums.v2t_count, v2t_, v2t_count_);
    add(sums.t2v, sums.t2v_count, t2v_, t2v_count_);
  }
  void share(Communicator& comm) {
    at::Tensor sums = at::zeros({6}, at::kDouble);
    double* sum = sums.data_ptr<double>();
    const double mine[] = {ce_, v2t_, t2v_, static_cast<double>(ce_count_), static_cast<double>(v2t_count_), static_cast<double>(t2v_count_)};
    std::copy(std::begin(mine), std::end(mine), sum);
    comm.all_reduce(sums, ReduceOp::sum, "evaluation");
    ce_ = sum[0], v2t_ = sum[1], t2v_ = sum[2];
    ce_count_ = static_cast<int64_t>(sum[3]), v2t_count_ = static_cast<int64_t>(sum[4]), t2v_count_ = static_cast<int64_t>(sum[5]);
  }
  void finish(const LossConfig& config, Evaluation& result) const {
    result.ce = average(ce_, ce_count_);
    result.v2t = average(v2t_, v2t_count_);
    result.t2v = average(t2v_, t2v_count_);
    result.loss = result.ce + config.dsm_weight * (result.v2t + result.t2v);  // parts that loss.dsm leaves out have no sum
  }

 private:
  static void add(const at::Tensor& sum, int64_t items, double& total, int64_t& count) {
    if (!sum.defined()) return;
    total += sum.item<double>();
    count += items;
  }
  static double average(double total, int64_t count) { return count == 0 ? 0.0 : total / static_cast<double>(count); }

  double ce_ = 0, v2t_ = 0, t2v_ = 0;
  int64_t ce_count_ = 0, v2t_count_ = 0, t2v_count_ = 0;
};

/// Counts right tokens and answers of a scored batch.
void count_right(const Batch& batch, const FusionModel::Scored& scored, Evaluation& result) {
  size_t row = 0;
  for (int64_t b = 0; b < batch.size(); ++b)
    for (const int64_t length : answer_lengths(batch, b)) {
      bool exact = length > 0;
      for (int64_t t = 0; t < length; ++t, ++row) {
        if (row >= scored.sample.size() || scored.sample[row] != b)
          fail(ExitCode::failure, "eval: sample '{}' was scored over fewer rows than it has supervised tokens", batch.ids[static_cast<size_t>(b)]);
        const bool right = scored.predicted[row] == scored.expected[row];
        result.tokens_right += right;
        exact = exact && right;
      }
      ++result.answers;
      result.exact += exact;
    }
  result.tokens += static_cast<int64_t>(scored.expected.size());
}

/// How often each answer follows each question text.
using AnswerCounts = std::map<std::string, std::map<std::string, int64_t>>;

int64_t commonest(const AnswerCounts& counts) {
  int64_t sum = 0;
  for (const auto& [question, answers] : counts)
    sum += std::max_element(answers.begin(), answers.end(), [](const auto& a, const auto& b) { return a.second < b.second; })->second;
  return sum;
}

/// Adds the counts of all ranks; each of them gets the whole result.
void share(Communicator& comm, Evaluation& result, AnswerCounts& counts) {
  std::vector<int64_t*> numbers = {&result.samples, &result.tokens, &result.answers, &result.exact, &result.tokens_right};
  at::Tensor sums = at::zeros({static_cast<int64_t>(numbers.size())}, at::kLong);
  for (size_t i = 0; i < numbers.size(); ++i) sums.data_ptr<int64_t>()[i] = *numbers[i];
  comm.all_reduce(sums, ReduceOp::sum, "evaluation");
  for (size_t i = 0; i < numbers.size(); ++i) *numbers[i] = sums.data_ptr<int64_t>()[i];

  Json mine = {{"counts", counts}, {"rejected", Json::array()}};
  for (const Rejection& rejection : result.rejected) mine["rejected"].push_back(to_json(rejection));
  counts.clear();
  result.rejected.clear();
  for (const std::string& text : comm.gather_texts(dump_json(mine, -1), "evaluation")) {
    const Json theirs = parse_json(text, "evaluation");
    for (const auto& [question, answers] : theirs["counts"].items())
      for (const auto& [answer, count] : answers.items()) counts[question][answer] += count.get<int64_t>();
    for (const Json& rejection : theirs["rejected"]) result.rejected.push_back(rejection_from_json(rejection));
  }
}

}  // namespace

Json Evaluation::to_json() const {
  return {{"loss", loss},
          {"ce", ce},
          {"v2t", v2t},
          {"t2v", t2v},
          {"exact_match", exact_match()},
          {"baseline", baseline()},
          {"token_accuracy", token_accuracy()},
          {"samples", samples},
          {"answers", answers},
          {"tokens", tokens},
          {"rejected", rejected.size()}};
}

std::vector<QuestionAnswer> question_answers(const Sample& sample) {
  std::vector<QuestionAnswer> pairs;
  for (size_t turn = !sample.turns.empty() && sample.turns[0].from == "gpt" ? 1 : 0; turn + 1 < sample.turns.size(); turn += 2) {
    const std::string question = replace_all(sample.turns[turn].value, "<image>", "");
    pairs.push_back({std::string(strip(question)), std::string(strip(sample.turns[turn + 1].value)), static_cast<int64_t>(turn)});
  }
  return pairs;
}

Evaluation evaluate(const FusionModel& model, std::shared_ptr<const Mixture> data, std::shared_ptr<const ConversationEncoder> encoder,
                    const EvaluateOptions& options) {
  const int64_t total = options.samples > 0 ? std::min(options.samples, data->size()) : data->size();
  const int64_t batch = model.config().neighbours_matter() ? 1 : options.batch;
  SampleOptions samples = options.sample;
  samples.over_length = OverLength::reject;
  SingleProcess alone;
  Communicator& comm = options.comm ? *options.comm : alone;
  const auto plan = [total, batch, number = comm.rank(), world = comm.world()]() mutable -> std::optional<Loader::Micro> {
    if (number * batch >= total) return std::nullopt;
    Loader::Micro micro;
    for (int64_t i = number * batch; i < std::min(total, (number + 1) * batch); ++i) micro.items.push_back({i, i});
    number += world;
    return micro;
  };
  Loader loader(data, std::move(encoder), {.sample = samples, .workers = options.workers, .prefetch = 4}, plan);

  Evaluation result;
  Sums sums;
  AnswerCounts counts;
  Progress progress(options.title, "samples", (total + comm.world() - 1) / comm.world());
  while (auto loaded = loader.next()) {
    const FusionModel::Scored scored = model.score(loaded->batch, {.query_len = options.query_len});
    sums.add(scored.sums);
    count_right(loaded->batch, scored, result);
    result.samples += loaded->batch.size();
    for (const int64_t position : loaded->batch.positions)
      for (const auto& [question, answer, turn] : question_answers(data->sample(position))) ++counts[question][answer];
    result.rejected.insert(result.rejected.end(), loaded->rejected.begin(), loaded->rejected.end());
    progress.update(result.samples + static_cast<int64_t>(result.rejected.size()));
  }
  sums.share(comm);
  share(comm, result, counts);
  if (result.samples == 0) {
    if (result.rejected.empty()) fail(ExitCode::data, "eval: the file has no samples");
    fail(ExitCode::data, "eval: none of {} samples can be used; {}: sample '{}': {}", total, result.rejected[0].where, result.rejected[0].id,
         result.rejected[0].reason);
  }
  sums.finish(model.config().loss, result);
  result.commonest = commonest(counts);
  return result;
}

}  // namespace fusion
