/* log_keys: the tables of the logs' keys, as docs/formats.md holds them. */
#include <stdio.h>

#include "run/report.h"

int main(void)
{
	struct nla_str text = NLA_STR_INIT;
	nla_report_markdown(&text);
	fputs(text.buf, stdout);
	nla_str_release(&text);
	return 0;
}
