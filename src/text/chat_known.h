/* Made by tests/golden/make_chat_known.py: crc32 and length of a template's text, its format, system turn, head of it. */
{ 0xd47d59ef, 196, NLA_CHAT_CHATML, NULL, NULL },	  /* ChatML */
	{ 0xb0f836fd, 1531, NLA_CHAT_GEMMA, NULL, NULL }, /* Gemma 3 */
	{ 0x74b967da, 1538, NLA_CHAT_GEMMA, NULL, NULL }, /* Gemma 3, with escapes */
	{ 0x3d6cf1b4, 815, NLA_CHAT_LLAMA2, NULL, NULL }, /* Llama 2 */
	{ 0x9de0a238, 389, NLA_CHAT_LLAMA3, NULL, NULL }, /* Llama 3 */
	{ 0x138bbca5, 4613, NLA_CHAT_LLAMA3, "",
	  "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n" }, /* Llama 3.1, 3.3 */
	{ 0xc85933d0, 3826, NLA_CHAT_LLAMA3, "",
	  "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n" },   /* Llama 3.2 */
	{ 0x4f7179e5, 328, NLA_CHAT_CHATML, "You are a helpful assistant.", NULL }, /* Qwen2 */
	{ 0xec332e36, 2506, NLA_CHAT_CHATML, "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
	  NULL },					   /* Qwen2.5 */
	{ 0xf44b0207, 4116, NLA_CHAT_CHATML, NULL, NULL }, /* Qwen3 */
	{ 0x2819f267, 4168, NLA_CHAT_CHATML, NULL, NULL }, /* Qwen3, another revision */
	{ 0x40e97656, 2630, NLA_CHAT_CHATML, NULL, NULL }, /* Qwen3-Instruct-2507 */
	{ 0xbccc7195, 368, NLA_CHAT_CHATML, "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
	  NULL },					  /* SmolLM2 */
	{ 0xc3652ffc, 175, NLA_CHAT_CHATML, NULL, NULL }, /* demo and tests/data/tiny */
	{ 0xdfa48e42, 672, NLA_CHAT_GEMMA, NULL, NULL }, /* tests: gemma3 */
	{ 0x30456413, 585, NLA_CHAT_LLAMA2, NULL, NULL }, /* tests: llama2 */
	{ 0x64107ec2, 337, NLA_CHAT_LLAMA3, NULL, NULL }, /* tests: llama3.0 */
	{ 0x2dc19aea, 946, NLA_CHAT_LLAMA3, "",
	  "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n" }, /* tests: llama3.1 */
	{ 0xd5af6408, 1079, NLA_CHAT_LLAMA3, "",
	  "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n" },   /* tests: llama3.2 */
	{ 0xe14c1a0b, 302, NLA_CHAT_CHATML, "You are a helpful assistant.", NULL }, /* tests: qwen2 */
	{ 0xcc3ac058, 963, NLA_CHAT_CHATML, "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
	  NULL },					  /* tests: qwen2.5 */
	{ 0x3e29bac2, 834, NLA_CHAT_CHATML, NULL, NULL }, /* tests: qwen3 */
	{ 0x0c7fa0c5, 342, NLA_CHAT_CHATML, "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
	  NULL }, /* tests: smollm2 */
