"""Rules for every method in conf/method, and hand-computed values of the simplest ones."""

from __future__ import annotations

import copy
import inspect
import math
import re
from collections.abc import Callable, Iterator

import pytest
import torch
from helpers.shipped import CONF, choices, load, shapes
from torch import Tensor
from torch.autograd import gradcheck

from kd_bench.interfaces import Batch, LossContext, Output, StageShapes, UserError
from kd_bench.jobs import instantiate
from kd_bench.jobs.resolve import method_traits
from kd_bench.methods.at import AttentionTransfer
from kd_bench.methods.common.functional import soft_kl
from kd_bench.methods.feature_mse import FeatureMSE
from kd_bench.methods.fsp import FlowOfSolution, flow_matrix
from kd_bench.methods.logits import LogitRegression
from kd_bench.methods.st import SoftTarget
from kd_bench.models.features import FeatureExtractor, forward_with_views, probe_shapes
from kd_bench.models.resnet import ResNet
from kd_bench.training.images.mixing import shares_of
from kd_bench.training.step import networks_of
from kd_bench.training.teachers.teacher import Teacher

METHODS = choices("method")
K, B, SIZE = 10, 6, (8, 8)
TEACHER_WIDTHS = [6, 6, 12, 20]

# Losses that read gradients of whole networks; their own tests use smooth functions instead.
READ_GRADIENTS = {"at_gradient", "lwm", "sobolev"}
# Losses that detach a part, which finite differences do not: the peer's prediction, and weights
# that depend on logits.
HAVE_CONSTANTS = {"dml", "uskd", "wsld"}


# --- every method -----------------------------------------------------------------------------


def _favour_the_first_class(net: ResNet) -> None:
    """Make a network certain of the first class: only the first image of a batch is correct."""
    net.fc.bias.data[0] += 6.0


class MethodFixture:
    """A method and two networks of different depth and, if the method allows it, width."""

    dtype = torch.float

    def __init__(self, name: str, classes: int = K, size: int = B):
        torch.manual_seed(0)
        self.classes, self.size = classes, size
        self.config = copy.deepcopy(load("method", name))
        if name == "fcfd":  # use all paths in every step, instead of a random selection
            self.config.losses["fcfd"]["paths"] = 4
        traits = method_traits(self.config)
        self.has_teacher, self.learns = traits.needs_teacher, traits.teacher_learns
        self.phases = ["init", "main"] if self.config.init.weights else ["main"]
        self.teacher_net = ResNet(classes, 14, TEACHER_WIDTHS)
        _favour_the_first_class(self.teacher_net)
        try:
            self._build([4, 4, 8, 16])
        except UserError as error:
            if "needs equal channels" not in str(error):
                raise
            self._build(TEACHER_WIDTHS)

    def _build(self, student_widths: list[int]) -> None:
        net, teacher = ResNet(self.classes, 8, student_widths), self.teacher_net
        _favour_the_first_class(net)
        net.stages |= {"class_head": "fc", "token_head": "fc"}  # as in a ViT with both tokens
        self.context = LossContext(
            student=probe_shapes(net, net.stages, SIZE, "student"),
            teacher=probe_shapes(teacher, teacher.stages, SIZE, "teacher")
            if self.has_teacher
            else None,
            num_classes=self.classes,
            labels=torch.arange(4 * max(self.size, B)) % self.classes,
            epochs=3,
            teacher_net=teacher if self.has_teacher else None,
        )
        student = instantiate.Network(net, net.stages, "student")
        student, self.context = instantiate.with_head(student, self.config, self.context, SIZE)
        self.method = instantiate.build_method(self.config, self.context)
        self.student = student.extractor(self.method.student_stages)
        tapped = FeatureExtractor(teacher, teacher.stages, self.method.stages, "teacher")
        self.teacher = Teacher(
            tapped, learns=self.learns, needs_input_gradients=self.method.needs_input_gradients
        )

        self.method.prepare(self._training_outputs)

    def _training_outputs(self) -> list[tuple[Output, Tensor]]:
        """The teacher's outputs that are passed to `prepare` before training."""
        target = self.context.labels
        with torch.no_grad():
            return [(self.teacher(torch.randn(len(target), 3, *SIZE)), target)]

    def batch(self) -> Batch:
        index = torch.arange(self.size)
        image = torch.randn(self.size, 3, *SIZE, dtype=self.dtype)
        image.requires_grad_(self.method.needs_input_gradients)
        return Batch(image, self.context.labels[index], index, torch.tensor(1.0))

    def outputs(self, batch: Batch, phase: str = "main") -> list[Output | None]:
        """The outputs of student and teacher, as in a training step."""
        views = self.method.extra_views(batch.image, phase)
        nets = [self.student, self.teacher if self.has_teacher else None]
        return [net and forward_with_views(net, batch.image, views) for net in nets]

    def terms_of(
        self, outputs: list[Output | None], batch: Batch, phase: str = "main"
    ) -> dict[str, Tensor]:
        teacher = (self.teacher, self.teacher.network) if self.has_teacher else (None, None)
        networks = networks_of(self.student, self.student, *teacher)
        return self.method(*outputs, batch, networks, phase)

    def terms(self, phase: str) -> dict[str, Tensor]:
        """The terms of the first step of an epoch, for random images."""
        self.method.on_epoch_start(phase)
        batch = self.batch()
        return self.terms_of(self.outputs(batch, phase), batch, phase)

    def assert_finite(self, terms: dict[str, Tensor]) -> None:
        """Check that the terms and the gradients of all trained parameters are finite."""
        assert all(term.isfinite() for term in terms.values())
        sum(terms.values()).backward()
        learning = [*self.method.parameters(), *self.student.parameters()]
        assert all(p.grad is None or p.grad.isfinite().all() for p in learning)

    def double(self) -> MethodFixture:
        """Convert everything to double precision."""
        for module in (self.student, self.teacher.network, self.method):
            module.double()
        self.dtype = torch.double
        return self

    def function_of(
        self, student: Output, teacher: Output | None, batch: Batch, phase: str
    ) -> Callable[..., Tensor]:
        """The sum of the terms as a function of the student's tensors, everything else fixed."""
        method, draws = self.method, torch.get_rng_state()

        def value(*tensors: Tensor) -> Tensor:
            torch.set_rng_state(draws)
            self.method = copy.deepcopy(method)  # every call updates memory banks
            outputs = [with_tensors(student, iter(tensors)), teacher]
            total = sum(self.terms_of(outputs, batch, phase).values())
            self.method = method
            return total

        return value


def first_layer(net: torch.nn.Module) -> Tensor:
    """The weights of the first layer."""
    return next(net.parameters())


@pytest.fixture(params=METHODS)
def setup(request) -> MethodFixture:
    return MethodFixture(request.param)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_the_name_of_its_file(name):
    assert load("method", name).name == name


@pytest.mark.parametrize("name", METHODS)
def test_hyperparameters_have_their_only_default_in_yaml(name):
    config = load("method", name)
    for key, loss in instantiate.loss_classes(config).items():
        given = config.losses[key].keys() - {"_target_"}
        taken = inspect.signature(loss).parameters.values()
        assert given == {p.name for p in taken} - {"context"}
        assert all(p.default is inspect.Parameter.empty for p in taken)


def test_terms_have_the_declared_names_and_are_finite_scalars(setup):
    for phase in setup.phases:
        terms = setup.terms(phase)
        assert list(terms) == list(setup.method.weights_of(phase))
        assert all(term.shape == () and term.isfinite() for term in terms.values())


def test_gradients_reach_student_and_every_adapter_but_not_the_teacher(setup):
    for phase in setup.phases:
        sum(setup.terms(phase).values()).backward()
    adapters = [p for p in setup.method.parameters() if p.requires_grad]
    for parameter in [*adapters, first_layer(setup.student)]:
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()
    assert setup.learns == any(p.grad is not None for p in setup.teacher_net.parameters())


def test_every_term_has_a_gradient_for_a_trained_parameter(setup):
    for phase in setup.phases:
        terms = setup.terms(phase)
        adapters = [p for p in setup.method.parameters() if p.requires_grad]
        peers = [setup.student.net, *([setup.teacher_net] if setup.learns else [])]
        learning = [*map(first_layer, peers), *adapters]
        for term in terms.values():
            pulls = torch.autograd.grad(term, learning, retain_graph=True, allow_unused=True)
            assert any(pull is not None and pull.any() for pull in pulls)


def with_views(outputs: list[Output | None]) -> list[Output]:
    """The outputs of the networks that exist, and those of their extra views."""
    return [x for out in outputs if out is not None for x in (out, *out.views.values())]


class RecordingDict(dict):
    """Features that add the names of accessed stages to `read`."""

    def __init__(self, features: dict[str, Tensor], read: set[str]):
        super().__init__(features)
        self.read = read

    def __getitem__(self, stage: str) -> Tensor:
        self.read.add(stage)
        return super().__getitem__(stage)


def test_a_method_reads_exactly_the_stages_it_declares(setup):
    read = set()
    for phase in setup.phases:
        setup.method.on_epoch_start(phase)
        batch = setup.batch()
        outputs = setup.outputs(batch, phase)
        for output in with_views(outputs):
            output.features = RecordingDict(output.features, read)
        setup.terms_of(outputs, batch, phase)
    assert read == set(setup.method.student_stages)


def test_one_hot_labels_give_equal_terms_unless_the_method_needs_class_indices(setup):
    if setup.method.label_readers:
        return
    batch = setup.batch()
    outputs = setup.outputs(batch)
    twin = copy.deepcopy(setup.method)  # every call updates memory banks
    torch.manual_seed(1)
    expected = setup.terms_of(outputs, batch)
    setup.method = twin
    torch.manual_seed(1)
    batch.target = shares_of(batch.target, K)
    for name, term in setup.terms_of(outputs, batch).items():
        torch.testing.assert_close(term, expected[name])


def test_a_method_resumes_from_its_state_dict(setup):
    batch = setup.batch()
    outputs = setup.outputs(batch)
    setup.terms_of(outputs, batch)  # fills the memory banks
    twin = instantiate.build_method(setup.config, setup.context)
    twin.load_state_dict(setup.method.state_dict())
    torch.manual_seed(1)
    expected = setup.terms_of(outputs, batch)
    torch.manual_seed(1)
    setup.method = twin
    for name, term in setup.terms_of(outputs, batch).items():
        assert torch.equal(term, expected[name])


@pytest.mark.parametrize(("scale", "logit"), [(0.0, 0.0), (0.0, 1e4), (1e4, 1e4)])
def test_terms_and_gradients_are_finite_for_features_and_logits_of_any_size(setup, scale, logit):
    # Predictions are opposite for every image. Features are all zero, or huge for the student and
    # ones for the teacher.
    batch = setup.batch()
    outputs = setup.outputs(batch)
    for sign, part in ((1, outputs[:1]), (-1, outputs[1:])):
        factor, ones = (scale, 0.0) if sign == 1 else (0.0, float(scale > 0))
        for output in with_views(part):
            extreme = sign * logit * torch.tensor([1.0, -1.0]).repeat(K // 2)
            output.features = {stage: factor * x + ones for stage, x in output.features.items()}
            # Keeps logits dependent on features
            tie = sum(x.sum() for x in output.features.values())
            output.logits = output.logits * 0 + tie * 0 + extreme
    setup.assert_finite(setup.terms_of(outputs, batch))


def drawn(output: Output, dtype: torch.dtype, scale: float = 1.0) -> Output:
    """Random leaf tensors in place of the logits and features of an output and its views."""

    def draw(like: Tensor) -> Tensor:
        return (scale * torch.randn_like(like, dtype=dtype)).requires_grad_()

    features = {stage: draw(x) for stage, x in output.features.items()}
    views = {name: drawn(view, dtype, scale) for name, view in output.views.items()}
    return Output(draw(output.logits), features, views)


def tensors_of(output: Output) -> list[Tensor]:
    """The logits and features of an output, then those of its views."""
    return [x for each in with_views([output]) for x in (each.logits, *each.features.values())]


def with_tensors(output: Output, values: Iterator[Tensor]) -> Output:
    """An output with the tensors that `tensors_of` lists replaced."""
    logits, features = next(values), {stage: next(values) for stage in output.features}
    views = {name: with_tensors(view, values) for name, view in output.views.items()}
    return Output(logits, features, views)


@pytest.mark.parametrize("name", sorted(set(METHODS) - READ_GRADIENTS))
def test_terms_and_gradients_are_finite_if_most_probabilities_underflow(name):
    setup = MethodFixture(name)
    for phase in setup.phases:
        setup.method.on_epoch_start(phase)
        batch = setup.batch()
        made = setup.outputs(batch, phase)
        student, teacher = (out and drawn(out, torch.float, scale=50.0) for out in made)
        terms = setup.terms_of([student, teacher], batch, phase)
        setup.assert_finite(terms)
        assert all(x.grad is None or x.grad.isfinite().all() for x in tensors_of(student))


@pytest.mark.parametrize("name", sorted(set(METHODS) - READ_GRADIENTS - HAVE_CONSTANTS))
def test_gradients_match_finite_differences(name):
    setup = MethodFixture(name).double()
    for phase in setup.phases:
        setup.terms(phase)  # fills memory banks, and fixes values set by the first step
        batch = setup.batch()
        student, teacher = (out and drawn(out, torch.double) for out in setup.outputs(batch, phase))
        value = setup.function_of(student, teacher, batch, phase)
        # The tolerance accounts for small gradients of means over a batch.
        assert gradcheck(value, tensors_of(student), atol=1e-7, fast_mode=True)


@pytest.mark.parametrize(
    ("classes", "size"),
    [(2, 1), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((2, B), (K, 1), (K, K)))],
)
@pytest.mark.parametrize("name", METHODS)
def test_two_classes_one_image_and_one_image_per_class_are_finite_or_refused(name, classes, size):
    try:
        setup = MethodFixture(name, classes, size)
    except UserError as error:
        assert classes == 2
        assert "from 1 to 1" in str(error)  # noqa: PT017  # a number of classes below 2
        return
    for phase in setup.phases:
        setup.assert_finite(setup.terms(phase))


@pytest.mark.parametrize("name", ["st", "logits", "at", "st_at", "feature_mse", "fsp_joint"])
def test_networks_may_differ_in_width_unless_the_method_compares_channels(name):
    has_equal_widths = MethodFixture(name).context.student["stage1"] == (6, 8, 8)
    assert has_equal_widths == (name in {"feature_mse", "fsp_joint"})


def test_the_weight_of_attention_transfer_is_the_papers():
    assert load("method", "at").weights == {"ce": 1.0, "at": 1000.0}


def test_a_combined_method_consists_of_its_parts():
    st, at, both = (load("method", name) for name in ("st", "at", "st_at"))
    assert both.losses == st.losses | at.losses
    assert both.weights == st.weights | at.weights


# --- numbers ----------------------------------------------------------------------------------


def context_of(student: StageShapes, teacher: StageShapes) -> LossContext:
    return LossContext(student, teacher, num_classes=2, labels=torch.zeros(4).long(), epochs=1)


STAGES = {"stem": (2, 2, 2), "stage1": (2, 2, 2), "stage2": (2, 1, 1), "pooled": (2,)}
CONTEXT = context_of(shapes("small", **STAGES), shapes("large", **STAGES))
BATCH = Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2).long(), torch.arange(2), torch.tensor(1.0))


def rand(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.double)


def output_of(logits: Tensor | None = None, **features: Tensor) -> Output:
    return Output(torch.zeros(1, 2) if logits is None else logits, features)


def test_soft_target_is_sixteen_times_the_divergence_at_temperature_four():
    # softmax([4 ln 3, 0] / 4) = [3/4, 1/4] against [1/2, 1/2] is 0.130812 (see soft_kl);
    # zero for the second image, so the mean is half of that: 16 · 0.130812 / 2 = 1.046496
    teacher = output_of(torch.tensor([[4 * math.log(3), 0.0], [0.0, 0.0]]))
    loss = SoftTarget(CONTEXT, temperature=4.0)(output_of(torch.zeros(2, 2)), teacher, BATCH)
    assert loss.item() == pytest.approx(1.046496, abs=1e-5)


@pytest.mark.parametrize("temperature", [3.0, 4.0])
def test_soft_target_is_the_mean_of_soft_kl_bit_for_bit(temperature):
    student, teacher = rand(29, 10).float(), rand(29, 10, seed=1).float()
    batch = Batch(
        torch.zeros(29, 3, 4, 4), torch.zeros(29).long(), torch.arange(29), torch.ones(())
    )
    loss = SoftTarget(CONTEXT, temperature)
    value = loss(output_of(student), output_of(teacher), batch)
    assert torch.equal(value, temperature**2 * soft_kl(student, teacher, temperature).mean())
    mean = loss.per_image(output_of(student), output_of(teacher), batch).mean()
    torch.testing.assert_close(value, mean)


def gradient_of(loss, student: Tensor, teacher: Tensor) -> Tensor:
    student = student.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(output_of(student), output_of(teacher), BATCH), student)
    return gradient


def test_soft_target_at_high_temperature_is_logit_matching():
    # Hinton et al., equation 4: T^2 dC/dz = (z - v) / K for logits of mean zero, and the mean over
    # the batch divides by B. That is half the gradient of mean((z - v)^2).
    student, teacher = (x - x.mean(1, keepdim=True) for x in (rand(3, 5), rand(3, 5, seed=1)))
    soft = gradient_of(SoftTarget(CONTEXT, temperature=1e4), student, teacher)
    # The tolerance is for the next term of the series, 1 / T = 1e-4 of the first.
    torch.testing.assert_close(soft, (student - teacher) / (3 * 5), rtol=1e-3, atol=1e-5)
    matching = gradient_of(LogitRegression(CONTEXT), student, teacher)
    torch.testing.assert_close(soft, matching / 2, rtol=1e-3, atol=1e-5)


def test_the_gradient_scale_is_independent_of_temperature():
    # Without T^2 the ratio would be 400. Small logits are near the limit even at T = 1.
    student, teacher = 0.1 * rand(4, 10), 0.1 * rand(4, 10, seed=1)
    cold, hot = (gradient_of(SoftTarget(CONTEXT, t), student, teacher).norm() for t in (1.0, 20.0))
    assert (cold / hot).item() == pytest.approx(1.0, abs=0.1)


def test_soft_target_sums_over_classes_and_averages_over_images():
    # Duplicated images and classes of probability zero change nothing:
    # KLDivLoss's default would divide by the number of classes.
    student, teacher = rand(3, 5), rand(3, 5, seed=1)
    loss = SoftTarget(CONTEXT, temperature=4.0)
    once = loss(output_of(student), output_of(teacher), BATCH)
    twice = loss(output_of(student.repeat(2, 1)), output_of(teacher.repeat(2, 1)), BATCH)
    unlikely = torch.full((3, 95), -1e4, dtype=torch.double)
    padded = [output_of(torch.cat([x, unlikely], 1)) for x in (student, teacher)]
    torch.testing.assert_close(twice, once)
    torch.testing.assert_close(loss(*padded, BATCH), once)


@pytest.mark.parametrize("loss", [SoftTarget(CONTEXT, 4.0), LogitRegression(CONTEXT)])
def test_the_loss_pulls_the_student_to_the_teacher_and_is_stationary_there(loss):
    student, teacher = rand(3, 5), rand(3, 5, seed=1)
    pull = gradient_of(loss, student, teacher)
    nearer = loss(output_of(student - 0.01 * pull), output_of(teacher), BATCH)
    assert pull.any()
    assert nearer < loss(output_of(student), output_of(teacher), BATCH)
    assert gradient_of(loss, teacher, teacher).abs().max() < 1e-15  # rounding in double


@pytest.mark.parametrize("temperature", [0, -4.0, math.inf, math.nan, "warm", None, True])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature):
    with pytest.raises(UserError, match=r"^temperature must be a number above 0, got "):
        SoftTarget(CONTEXT, temperature)


def test_logit_regression_is_the_mean_square():
    # (1^2 + 2^2 + 0^2 + 2^2) / 4 = 2.25
    student, teacher = (
        torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        torch.tensor([[0.0, 0.0], [3.0, 6.0]]),
    )
    assert LogitRegression(CONTEXT)(output_of(student), output_of(teacher), BATCH).item() == 2.25


def test_feature_mse_compares_the_inputs_of_the_classifiers():
    # Likewise, (1 + 4 + 0 + 4) / 4; logits are not used.
    student = output_of(rand(2, 2), pooled=torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    teacher = output_of(rand(2, 2, seed=1), pooled=torch.tensor([[0.0, 0.0], [3.0, 6.0]]))
    assert FeatureMSE(CONTEXT)(student, teacher, BATCH).item() == 2.25


def maps(*energy: float) -> Tensor:
    """One image, one channel, with these energies (squares) in a row."""
    return torch.tensor(energy).sqrt().view(1, 1, 1, -1)


def test_attention_transfer_adds_up_the_stages():
    # [3, 4] and [4, 3] over 5: ((0.6 - 0.8)^2 + (0.8 - 0.6)^2) / 2 = 0.04;
    # [1, 0] and [0, 1]: (1 + 1) / 2 = 1
    loss = AttentionTransfer(CONTEXT, ["stage1", "stage2"])
    student = output_of(stage1=maps(3, 4), stage2=maps(1, 0), stem=maps(9, 9))
    teacher = output_of(stage1=maps(4, 3), stage2=maps(0, 1), stem=maps(1, 2))
    assert loss(student, teacher, BATCH).item() == pytest.approx(1.04)


def test_attention_transfer_averages_over_images_and_positions():
    # Four positions instead of two, half of them zero: the same difference over twice as many
    loss = AttentionTransfer(CONTEXT, ["stage1"])
    student, teacher = output_of(stage1=maps(3, 4, 0, 0)), output_of(stage1=maps(4, 3, 0, 0))
    assert loss(student, teacher, BATCH).item() == pytest.approx(0.02)
    twice = [
        output_of(stage1=out.features["stage1"].repeat(2, 1, 1, 1)) for out in (student, teacher)
    ]
    assert loss(*twice, BATCH).item() == pytest.approx(0.02)


def test_attention_transfer_is_invariant_to_channels_and_scale():
    loss = AttentionTransfer(CONTEXT, ["stage1"])
    features = rand(2, 3, 4, 4)
    teacher = output_of(stage1=5 * features.repeat(1, 2, 1, 1))
    assert loss(output_of(stage1=features), teacher, BATCH).item() == pytest.approx(0, abs=1e-20)


def test_attention_transfer_pools_maps_before_squaring():
    # [1, 3] averages to 2 and [4, 4] to 4: energies [4, 16], over sqrt(272). Squaring first would
    # give [5, 16]. Against [1, 0]: ((1 - 4/sqrt(272))^2 + (16/sqrt(272))^2) / 2 = 0.757464
    student = output_of(stage1=torch.tensor([[[[1.0, 3.0, 4.0, 4.0]]]]))
    loss = AttentionTransfer(CONTEXT, ["stage1"])(student, output_of(stage1=maps(1, 0)), BATCH)
    assert loss.item() == pytest.approx(0.757464, abs=1e-6)


def test_flow_is_the_inner_product_of_channels_over_positions():
    # Rows [1, 2] and [3, 4] with rows [1, 0] and [0, 1], over two positions
    first = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    second = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    assert flow_matrix(first, second).tolist() == [[[0.5, 1.0], [1.5, 2.0]]]


def test_flow_averages_the_larger_map_first():
    first, second = rand(2, 3, 4, 4), rand(2, 5, 2, 2, seed=1)
    expected = torch.zeros(2, 3, 5, dtype=torch.double)
    for b in range(2):
        for c in range(3):
            for d in range(5):
                for y in range(2):
                    for x in range(2):
                        block = first[b, c, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
                        expected[b, c, d] += block.mean() * second[b, d, y, x] / 4
    torch.testing.assert_close(flow_matrix(first, second), expected)


def test_fsp_is_the_mean_over_pairs_of_the_mean_square():
    # G of stem and stage1 as above, [[0.5, 1], [1.5, 2]], against zeros: (0.25 + 1 + 2.25 + 4) / 4
    # = 1.875. stage1, averaged to [1/2, 1/2], and stage2 = [2, 0]: G = [[1, 0], [1, 0]],
    # mean square 0.5. Together (1.875 + 0.5) / 2 = 1.1875
    student = output_of(
        stem=torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]]),
        stage1=torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]]),
        stage2=torch.tensor([[[[2.0]], [[0.0]]]]),
    )
    teacher = output_of(**{stage: torch.zeros_like(x) for stage, x in student.features.items()})
    loss = FlowOfSolution(CONTEXT, ["stem", "stage1", "stage2"])
    assert loss(student, teacher, BATCH).item() == pytest.approx(1.1875)


def test_fsp_is_invariant_to_the_order_of_positions():
    # The flow sums over positions, so the same permutation in both stages does not change it.
    order = [3, 0, 2, 1]
    first, second = rand(2, 3, 1, 4), rand(2, 2, 1, 4, seed=1)
    shuffled = flow_matrix(first[..., order], second[..., order])
    torch.testing.assert_close(shuffled, flow_matrix(first, second))


def test_fsp_refuses_unequal_channels_with_both_shapes():
    student = shapes("resnet8_half", stem=(8, 8, 8), stage1=(8, 8, 8))
    teacher = shapes("resnet20", stem=(8, 8, 8), stage1=(16, 8, 8))
    with pytest.raises(UserError, match=r"stage1 is 8x8x8 in resnet8_half and 16x8x8 in resnet20"):
        FlowOfSolution(context_of(student, teacher), ["stem", "stage1"])


def test_fsp_refuses_a_single_stage():
    with pytest.raises(UserError, match=r"^FSP needs two stages or more, got stage1$"):
        FlowOfSolution(CONTEXT, ["stage1"])


def test_feature_mse_refuses_unequal_channels_with_both_shapes():
    with pytest.raises(UserError, match=r"pooled is 32 in small and 64 in large"):
        FeatureMSE(context_of(shapes("small", pooled=(32,)), shapes("large", pooled=(64,))))


@pytest.mark.parametrize("loss", [AttentionTransfer, FlowOfSolution])
def test_an_unknown_stage_is_refused_when_the_loss_is_built(loss):
    with pytest.raises(
        UserError, match=r"^unknown stage 'stage9' of small; choose from stem, stage1, stage2"
    ):
        loss(CONTEXT, ["stage1", "stage9"])


def test_the_sweeps_classics_and_modern_have_all_methods():
    listed = []
    for name in ("classics", "modern"):
        sweep = (CONF / "sweep" / f"{name}.yaml").read_text()
        (methods,) = re.findall(r"^ +method: (.*)$", sweep, re.MULTILINE)
        listed += methods.split(",")
    for_some_students = {"deit_token"}
    assert set(listed) == set(choices("method")) - for_some_students


# --- shares of a batch ------------------------------------------------------------------------


def halves(out: Output | None) -> list[Output | None]:
    """The outputs for the first and for the second half of a batch."""
    if out is None:
        return [None, None]
    features = {stage: feature.chunk(2) for stage, feature in out.features.items()}
    return [
        Output(logits, {stage: parts[number] for stage, parts in features.items()})
        for number, logits in enumerate(out.logits.chunk(2))
    ]


@pytest.mark.parametrize("name", METHODS)
def test_a_mean_over_images_is_the_mean_of_both_halves(name):
    work = MethodFixture(name)
    work.method.eval()  # batch statistics differ between halves
    for phase in work.phases:
        work.method.on_epoch_start(phase)
        batch = work.batch()
        outputs = work.outputs(batch, phase)
        parts = [
            Batch(image, target, index, batch.epoch)
            for image, target, index in zip(
                batch.image.chunk(2), batch.target.chunk(2), batch.index.chunk(2), strict=True
            )
        ]
        for loss in work.method.losses.values():
            if loss.is_mean_over_images:
                whole, *of_halves = (
                    value if isinstance(value := loss(*given), dict) else {"": value}
                    for given in [
                        (*outputs, batch),
                        *zip(*map(halves, outputs), parts, strict=True),
                    ]
                )
                for term, value in whole.items():
                    mean = torch.stack([each[term] for each in of_halves]).mean()
                    torch.testing.assert_close(value, mean, rtol=1e-4, atol=1e-6)
