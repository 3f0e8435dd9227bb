from chest_phantom.anatomy import CARDIOMEGALY_RATIO, State, draw_subject
from chest_phantom.cohort import plan_cohort
from chest_phantom.thorax import CAVITY, profile
from multi_abnormality.config.findings import FINDINGS

CARDIOMEGALY = FINDINGS.index("Cardiomegaly")


def cardiothoracic_ratio(state: State) -> float:
    """Widths of the heart and of the chest at its level."""
    return state.heart.half_widths()[0] / profile(CAVITY, state.heart.centre[2])[0]


def test_the_label_of_an_enlarged_heart_is_its_measured_ratio():
    subjects = [draw_subject(scan) for scan in plan_cohort(300, seed=0)]
    ratios = [cardiothoracic_ratio(subject.state) for subject in subjects]
    for subject, ratio in zip(subjects, ratios, strict=True):
        assert subject.scan.labels[CARDIOMEGALY] == (ratio >= CARDIOMEGALY_RATIO)
    borderline = [ratio - CARDIOMEGALY_RATIO for ratio in ratios if abs(ratio - 0.5) < 0.02]
    assert min(borderline) < 0 < max(borderline)


def test_two_scans_show_the_same_patient():
    scans = plan_cohort(100, seed=0)
    second = next(i for i, scan in enumerate(scans) if scan.visit == "b")
    before, after = draw_subject(scans[second - 1]), draw_subject(scans[second])
    assert before.patient == after.patient
    assert before.state != after.state
