/* progress - see progress.h. A process has one stderr, so one static variable says whether its last line is a live one. */
#include "base/progress.h"

#include <sys/ioctl.h>

#include "base/file.h"

static bool live; /* the cursor is at the end of a live line */
static struct nla_log *tee;
static enum nla_say_level quiet;
static const char *whose;

static void clear_live(void)
{
	if (live)
		fputs("\r\033[K", stderr);
	live = false;
}

void nla_add_duration(struct nla_str *s, double seconds)
{
	long t = (long)(seconds + 0.5);
	if (seconds < 9.95)
		nla_str_addf(s, "%.1f s", seconds);
	else if (t < 120)
		nla_str_addf(s, "%ld s", t);
	else if (t < 7200)
		nla_str_addf(s, "%ld min %02ld s", t / 60, t % 60);
	else
		nla_str_addf(s, "%ld h %02ld min", t / 3600, t / 60 % 60);
}

void nla_add_left(struct nla_str *s, double seconds)
{
	const time_t end = time(NULL) + (time_t)(seconds + 0.5);
	char clock[32];
	struct tm tm;
	strftime(clock, sizeof(clock), seconds < 72000 ? "%H:%M" : "%a %d %b %H:%M", localtime_r(&end, &tm));
	nla_add_duration(s, seconds);
	nla_str_addf(s, " left, until %s", clock);
}

char *nla_figure(double x, double error, int digits)
{
	return isnan(x) ? nla_strdup("-") : isnan(error) ? nla_format("%.*f", digits, x)
	       : nla_format("%.*f +- %.*f", digits, x, digits, error);
}

void nla_progress_start(struct nla_progress *p, const char *what, int64_t total)
{
	double now = nla_seconds();
	*p = (struct nla_progress){ .what = what, .total = total, .started = now, .shown = now, .tty = isatty(STDERR_FILENO) };
}

void nla_progress_step(struct nla_progress *p, int64_t done, const char *fmt, ...)
{
	NLA_AUTO(nla_str_release) struct nla_str line = NLA_STR_INIT;
	double now = nla_seconds();
	if (quiet || now - p->shown < (p->tty ? 0.1 : 10))
		return;
	p->shown = now;
	nla_str_addf(&line, "%s %lld", p->what, (long long)done);
	if (p->total > 0) {
		nla_str_addf(&line, "/%lld", (long long)p->total);
		p->share = NLA_MAX(p->share, (double)done / (double)p->total);
	}
	if (p->share > 0)
		nla_str_addf(&line, " (%.0f%%)", 100 * p->share);
	if (p->share > p->from && p->share < 1) {
		nla_str_add(&line, ", ");
		nla_add_left(&line, (now - p->started) * (1 - p->share) / (p->share - p->from));
	}
	nla_str_add(&line, ": ");
	NLA_STR_ADD_ARGS(&line, fmt);
	if (p->tty) { /* a line wider than the terminal would wrap, and clearing it would leave its first half behind */
		struct winsize size = { 0 };
		int width = !ioctl(STDERR_FILENO, TIOCGWINSZ, &size) && size.ws_col > 1 ? size.ws_col - 1 : 79;
		clear_live();
		fprintf(stderr, "%.*s", width, line.buf);
	} else {
		fprintf(stderr, "%s\n", line.buf);
	}
	live = p->tty;
}

void nla_progress_end(struct nla_progress *p, const char *fmt, ...)
{
	NLA_AUTO(nla_str_release) struct nla_str line = NLA_STR_INIT;
	NLA_STR_ADD_ARGS(&line, fmt);
	nla_str_add(&line, " in ");
	nla_add_duration(&line, nla_seconds() - p->started);
	nla_say("%s: %s", p->what, line.buf);
}

void nla_say_tee(struct nla_log *log) { tee = log; }

void nla_say_quiet(enum nla_say_level level) { quiet = level; }

void nla_say_for(const char *who) { whose = who; }

/* A log that cannot be written is said once and let go: progress is no reason to stop a run. */
void nla_say(const char *fmt, ...)
{
	NLA_AUTO(nla_str_release) struct nla_str line = NLA_STR_INIT;
	struct nla_err err = NLA_ERR_INIT;
	NLA_STR_ADD_ARGS(&line, fmt);
	clear_live();
	nla_str_addc(&line, '\n');
	if (!quiet || (quiet == NLA_SAY_WARNINGS && nla_starts_with(line.buf, "warning")))
		fprintf(stderr, "%s%s%s", whose ? whose : "", whose ? ": " : "", line.buf);
	if (tee)
		nla_log_add(tee, line.buf, line.len);
	if (tee && nla_log_flush(tee, &err)) {
		fprintf(stderr, "warning: %s\n", err.text);
		tee = NULL;
	}
}
