/* The watchdog: what hangs (a step, an evaluation, a checkpoint), after how long, and in which stage of the step. */
#include <signal.h>

#include "unit/scratch.h"

#include "rl/step.h"
#include "run/stop.h"

/* What it says when its time is up. */
static void says(const char *want)
{
	char text[256];
	int out[2], kept = dup(STDERR_FILENO);
	assert_int_equal(pipe(out), 0);
	dup2(out[1], STDERR_FILENO);
	raise(SIGALRM);
	dup2(kept, STDERR_FILENO);
	close(kept);
	close(out[1]);
	const ssize_t n = read(out[0], text, sizeof(text) - 1);
	close(out[0]);
	text[n > 0 ? n : 0] = '\0';
	assert_string_equal(text, want);
}

#define STEP "warning: step 3 has been at work for 900 s, and has not ended"

static void test_stages(void **state)
{
	struct nla_step s;
	nla_watch(900, "step", 3);
	says(STEP "\n");
	nla_step_start(&s, 1, 2, 4);
	for (enum nla_stage stage = NLA_STAGE_ROLLOUT; stage <= NLA_STAGE_UPDATE; stage++) {
		nla_auto char *in = nla_format(STEP ", in stage %s\n", nla_stage_names[stage]);
		says(STEP "\n"); /* between two of them */
		nla_step_begin(stage);
		says(in);
		nla_step_lap(&s, stage);
	}
	nla_step_begin(NLA_STAGE_UPDATE);
	nla_watch(60, "the checkpoint of step", 3); /* whose stage is none of the step's */
	says("warning: the checkpoint of step 3 has been at work for 60 s, and has not ended\n");
	nla_step_lap(&s, NLA_STAGE_UPDATE);
	says("warning: the checkpoint of step 3 has been at work for 60 s, and has not ended\n");
	nla_step_release(&s);
}

/* The time is real, and counts from the last call. */
static void test_time(void **state)
{
	nla_watch(900, "step", 1);
	const unsigned left = alarm(0);
	assert_true(left > 0 && left <= 900);
	nla_watch(0, "step", 2);
	assert_int_equal(alarm(0), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_stages), cmocka_unit_test(test_time) };
	nla_stop_catch();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
