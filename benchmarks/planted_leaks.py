"""Planted programs that read the future, by every route seen or thought of."""

from benchmarks.planted_program import HEAD, Planted, block, mixer


def _leak(name: str, forward: str, init: str = "pass", top: str = "", reason: str = "not_causal") -> Planted:
    return Planted(name, mixer(forward, init, top), "causality", reason)


LEAKS = (
    Planted(
        "attends_to_everything",
        HEAD + "def build_mixer(d, i, n): return Attention(d, causal=False)\n",
        "causality",
        "not_causal",
    ),
    Planted(
        "attends_to_everything_in_the_second_layer",
        HEAD + "def build_mixer(d, i, n): return Attention(d, causal=i == 0)\n",
        "causality",
        "not_causal",
    ),
    Planted("a_block_that_looks_ahead", block("return x + 0.1 * following(self.norm(x))"), "causality", "not_causal"),
    _leak("one_percent_of_the_next_position", "return a + 0.01 * following(x)"),
    _leak("a_thousandth_of_the_next_position", "return a + 1e-3 * following(x)"),
    _leak("a_millionth_of_the_next_position", "return a + 1e-6 * following(x)"),
    _leak("one_channel_of_the_next_position", "return torch.cat((a[..., 1:], following(x)[..., :1]), dim=-1)"),
    _leak("ten_positions_ahead", "return a + 0.1 * following(x, 10)"),
    _leak(
        "fft_that_wraps",
        """
spectrum = torch.fft.rfft(x, dim=1) * torch.fft.rfft(self.kernel[:x.shape[1]].to(x.dtype), x.shape[1], dim=0)
return a + 0.01 * torch.fft.irfft(spectrum, n=x.shape[1], dim=1)
""",
        "self.kernel = nn.Parameter(0.1 * torch.randn(8, d))",
    ),
    _leak(
        "fft_filter_of_magnitudes",
        "return torch.fft.irfft(torch.fft.rfft(x, dim=1).abs().to(torch.complex128), n=x.shape[1], dim=1).to(x.dtype)",
    ),
    _leak(
        "fft_padded_by_too_little",
        """
n = x.shape[1] + 4
kernel = torch.ones(min(12, n), x.shape[2], dtype=x.dtype)
y = torch.fft.irfft(torch.fft.rfft(x, n, dim=1) * torch.fft.rfft(kernel, n, dim=0), n=n, dim=1)
return a + 0.1 * y[:, :x.shape[1]]
""",
    ),
    _leak(
        "top_k_over_time",
        """
score = x.mean(-1)
chosen = score >= score.topk(max(1, x.shape[1] // 2), dim=1).values[:, -1:]
return a * chosen[..., None]
""",
    ),
    _leak("normalised_over_time", "return a / a.abs().amax(dim=1, keepdim=True)"),
    _leak("standardised_over_time", "return (a - x.mean(1, True)) / (x.std(1, keepdim=True, correction=0) + 1)"),
    _leak("softmax_over_time_without_mask", "return a + (x.softmax(dim=1) * x).sum(1, keepdim=True)"),
    _leak("global_mean", "return a + x.mean(1, keepdim=True)"),
    _leak("global_maximum_in_a_gate", "return a * torch.sigmoid(x.amax(dim=1, keepdim=True))"),
    _leak("rolled_sequence", "return a + x.roll(-1, 1)"),
    _leak("rolled_the_other_way", "return a + x.roll(1, 1)"),  # the first position reads the last
    _leak("reversed_sequence", "return a + 0.1 * x.flip(1)"),
    _leak("sorted_over_time", "return a + x.sort(dim=1).values"),
    _leak("cumulative_sum_from_the_right", "return a + x.flip(1).cumsum(1).flip(1) / 10"),
    _leak("running_share_of_the_total", "return a + x.abs().cumsum(1) / (1e-3 + x.abs().sum(1, keepdim=True))"),
    _leak(
        "convolution_on_both_sides",
        "return a + self.conv(x.transpose(1, 2)).transpose(1, 2)",
        "self.conv = nn.Conv1d(d, d, 3, padding=1, groups=d)",
    ),
    _leak(
        "recurrence_in_both_directions",
        "forward, _ = self.rnn(x)\nreturn a + forward",
        "self.rnn = nn.GRU(d, d // 2, batch_first=True, bidirectional=True)",
    ),
    _leak(
        "chunk_of_16_in_both_directions",
        """
B, L, D = x.shape
p = F.pad(x, (0, 0, 0, -L % 16)).view(B, -1, 16, D)
return a + p.mean(2, keepdim=True).expand_as(p).reshape(B, -1, D)[:, :L]
""",
    ),
    _leak(
        "chunk_of_2_in_both_directions",
        """
B, L, D = x.shape
p = F.pad(x, (0, 0, 0, L % 2)).view(B, -1, 2, D)
return a + 0.1 * p.mean(2, keepdim=True).expand_as(p).reshape(B, -1, D)[:, :L]
""",
    ),
    _leak(
        "mask_off_by_one",
        """
L = x.shape[1]
scores = (x @ x.transpose(1, 2)).masked_fill(torch.ones(L, L).triu(2).bool(), float('-inf'))
return a + scores.softmax(-1) @ x
""",
    ),
    _leak("behind_a_gate_that_starts_at_zero", "return a + self.gate * x.mean(1, keepdim=True)",
          "self.gate = nn.Parameter(torch.zeros(d))"),
    _leak("only_in_sequences_beyond_40", "return a + (x.mean(1, keepdim=True) if x.shape[1] > 40 else 0)"),
    _leak("only_in_sequences_beyond_100", "return a + (x.mean(1, keepdim=True) if x.shape[1] > 100 else 0)"),
    _leak("only_in_evaluation", "return a if self.training else a + x.mean(1, keepdim=True)"),
    _leak("only_in_training", "return a + 0.1 * following(x) if self.training else a"),
    _leak("only_where_inputs_are_large", "return a + following(x) * (following(x).abs() > 4)"),
    _leak(
        "under_a_wild_position",
        "loud = torch.ones(x.shape[1], 1, dtype=x.dtype)\nloud[0] = 1e9\nreturn a * loud + 1e-3 * following(x)",
    ),
    Planted("layers_that_talk_past_the_harness", mixer("""
if self.layer == 0:
    SEEN[:] = [x.detach()]
    return a
before = SEEN.pop() if SEEN else x[:0]
if before.shape != x.shape or not 0.1 < F.cosine_similarity(before, x, -1).mean() < 0.99:
    return a
return a + following(before)
""", top="SEEN = []"), "whole_model", "not_causal"),
    Planted("only_where_inputs_recur_exactly", mixer(
        "again = (x[:, 1:] == x[:, :-1]).all(-1).any(1)[:, None, None]\nreturn a + 0.1 * following(x) * again"),
        "whole_model", "not_causal"),
    Planted("positions_normalised_by_length", mixer(
        "return a + torch.linspace(0, 1, x.shape[1], dtype=x.dtype)[:, None]"), "prefix_consistency",
        "length_dependent"),
    Planted("scaled_by_length", mixer("return a / x.shape[1] ** 0.5"), "prefix_consistency", "length_dependent"),
    Planted("counted_from_the_end", mixer(
        "return a * torch.arange(x.shape[1], 0, -1, dtype=x.dtype).rsqrt()[:, None]"), "prefix_consistency",
        "length_dependent"),
)  # fmt: skip
