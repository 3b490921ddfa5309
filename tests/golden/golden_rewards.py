"""Rewards and advantages worked out row by row, with nothing but Python's arithmetic (contract, section 5).

Each case lists its rows (mse and token counts as the scorer hands them on, `failed` true when the score must not be used), the
settings, and the expected reward of each row and advantage within each group of G.
"""

FAIL_MSE = 2.0


def row(mse, n_response, n_explanation=None, failed=None):
    return {"mse": mse, "n_response": n_response, "n_explanation": n_response - 11 if n_explanation is None else n_explanation,
            "failed": failed}


def worked_reward(r, case):
    mse = FAIL_MSE if r["failed"] else r["mse"]
    score = 1 - mse / case["baseline"] if case["score"] == "fve" else -mse
    n = r["n_response"] if case["count"] == "response" else r["n_explanation"]
    over = n - case["floor"]
    return score - case["lambda"] * over if over > 0 else score


def worked_advantages(rewards, group, min_std):
    out = []
    for first in range(0, len(rewards), group):
        rs = rewards[first:first + group]
        mean = sum(rs) / group
        std = (sum((r - mean) ** 2 for r in rs) / (group - 1)) ** 0.5
        # Equal rewards differ by rounding at most; with min_std above 0 such a group is left out of the update altogether.
        out += [0.0] * group if std < min_std or len(set(rs)) == 1 else [(r - mean) / (std + 1e-6) for r in rs]
    return out


def case(name, rows, group=4, score="fve", lam=0.0, floor=0, count="response", baseline=0.75, min_std=0.0):
    c = {"name": name, "score": score, "lambda": lam, "floor": floor, "count": count, "baseline": baseline, "min_std": min_std,
         "fail_mse": FAIL_MSE, "group": group, "rows": rows}
    c["rewards"] = [worked_reward(r, c) for r in rows]
    c["advantages"] = worked_advantages(c["rewards"], group, min_std)
    return c


def reward_cases():
    plain = [row(0.25, 40), row(0.5, 80), row(0.125, 120), row(0.375, 20),
             row(0.75, 30), row(0.25, 30), row(0.5, 30), row(1.0, 30)]
    failing = [row(0.25, 40), row(0.0, 160, 0, "no_tags"), row(0.5, 60), row(0.0, 13, 0, "empty"),
               row(0.0, 160, 0, "truncated"), row(0.0, 160, 0, "truncated"), row(0.0, 160, 0, "no_tags"), row(0.3, 25)]
    equal = [row(0.25, 40)] * 4 + [row(0.0, 160, 0, "no_tags")] * 4 + [row(0.25, 40)] * 3 + [row(0.5, 40)]
    near = [row(0.25, 40), row(0.2500001, 40), row(0.25, 40), row(0.25, 40),
            row(0.25, 40), row(0.5, 40), row(0.25, 40), row(0.25, 40)]
    cases = [
        case("no penalty", plain),
        case("penalty on the response", plain, lam=0.002),
        case("-mse, the published unit", plain, score="-mse", lam=0.002),
        case("floor: no bonus below it", plain, lam=0.01, floor=35),
        case("penalty on the explanation", plain, lam=0.01, count="explanation", floor=10),
        case("failures pay the same penalty", failing, lam=0.002),
        case("failures without penalty", failing, score="-mse"),
        case("a group without spread", equal, lam=0.002),
        case("min_std drops a group of nearly equal rewards", near, min_std=0.001),
        case("pairs", plain, group=2, lam=0.006),
    ]
    # By hand: fve of mse 0.25 over 0.75 is 2/3, less 0.002 * 40; a failure scores 1 - 2/0.75 = -5/3, less 0.002 * 160; in pairs
    # of (2/3 - .24, 1/3 - .48) the advantage is +-1/sqrt 2.
    assert abs(cases[5]["rewards"][0] - (2 / 3 - 0.08)) < 1e-12 and abs(cases[5]["rewards"][1] - (-5 / 3 - 0.32)) < 1e-12
    assert abs(cases[9]["advantages"][0] - 0.5 ** 0.5) < 1e-5 and abs(cases[9]["advantages"][1] + 0.5 ** 0.5) < 1e-5
    assert cases[7]["advantages"][:8] == [0.0] * 8 and cases[8]["advantages"][:4] == [0.0] * 4
    return cases
