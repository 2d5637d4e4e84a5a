from evalfm.workers.job import Advanced, Fault, Job, Raised, Returned, Said, Told, Worker, perform


def asked(function: str, **arguments: object) -> tuple[object, list[object]]:
    said: list[object] = []
    end = perform(Job(f"tests.workers.jobs:{function}", arguments, "a job"), Worker("cpu", Told(said.append)))
    return end, said


def test_a_call_returns_or_raises() -> None:
    assert asked("echo", value=[1, "two"])[0] == Returned([1, "two"])
    assert asked("refuse")[0] == Raised(Fault("EvalfmError", "This is wrong; do that."))


def test_of_a_fault_that_is_nobodys_mistake_the_first_line_and_the_place_are_told() -> None:
    end, _ = asked("fail")
    assert isinstance(end, Raised)
    assert (end.fault.error, end.fault.sentence) == ("ValueError", "first line")
    assert "evalfm/workers/job.py:" in str(end.fault.trace)
    assert "second line" not in str(end.fault.trace)


def test_a_job_that_would_end_its_process_has_failed() -> None:
    end, _ = asked("stop")
    assert isinstance(end, Raised)
    assert (end.fault.error, end.fault.sentence) == ("SystemExit", "3")


def test_a_function_that_is_not_there_is_a_fault_too() -> None:
    end, _ = asked("nothing")
    assert isinstance(end, Raised)
    assert end.fault.error == "AttributeError"


def test_what_a_job_says_and_how_far_it_is() -> None:
    said: list[object] = []
    told = Told(said.append)
    told.say("a line")
    assert list(told.track(range(3), "work", 3)) == [0, 1, 2]
    assert said == [Said("a line"), Advanced("work", 0, 3), Advanced("work", 3, 3, ended=True)]


def test_a_bar_ends_where_its_loop_breaks() -> None:
    said: list[object] = []
    steps = Told(said.append).track(range(9), "work")
    next(steps), next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert said[-1] == Advanced("work", 1, None, ended=True)
