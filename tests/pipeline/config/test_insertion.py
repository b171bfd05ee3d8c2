from pipeline.config.insertion import insert_prompt_tokens
from pipeline.prompts.template import parse_template

FIELDS = ("premise", "hypothesis")


def test_the_places_are_the_start_the_gaps_and_the_end():
    assert insert_prompt_tokens("{premise:shorten} so {mask} .", 1, behind_mask=True) == [
        "[P] {premise:shorten} so {mask} .",
        "{premise:shorten} [P] so {mask} .",
        "{premise:shorten} so [P] {mask} .",
        "{premise:shorten} so {mask} [P] .",
        "{premise:shorten} so {mask} . [P]",
    ]


def test_a_causal_model_has_no_place_behind_the_mask():
    assert insert_prompt_tokens("{premise} so {mask} .", 3, behind_mask=False) == [
        "[P*3] {premise} so {mask} .",
        "{premise} [P*3] so {mask} .",
        "{premise} so [P*3] {mask} .",
    ]


def test_every_candidate_is_a_template_with_so_many_prompt_tokens():
    pattern = '"{hypothesis}" ? {mask} , "{premise:shorten}"'
    candidates = insert_prompt_tokens(pattern, 2, behind_mask=True)
    assert len(set(candidates)) == len(candidates) == 6
    for candidate in candidates:
        assert parse_template(candidate, FIELDS).prompt_tokens == 2
        assert candidate.replace("[P*2]", "").split() == pattern.split()
