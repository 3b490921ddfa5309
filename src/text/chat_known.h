/* Made by tests/golden/make_chat_known.py: crc32 and length of a template's text, its format, system turn, head of it. */
ROW(0xd47d59ef, 196, CHATML, NULL, NULL) /* ChatML */
ROW(0xb0f836fd, 1531, GEMMA, NULL, NULL) /* Gemma 3 */
ROW(0x74b967da, 1538, GEMMA, NULL, NULL) /* Gemma 3, with escapes */
ROW(0x3d6cf1b4, 815, LLAMA2, NULL, NULL) /* Llama 2 */
ROW(0x9de0a238, 389, LLAMA3, NULL, NULL) /* Llama 3 */
ROW(0x138bbca5, 4613, LLAMA3, "", "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n") /* Llama 3.1, 3.3 */
ROW(0xc85933d0, 3826, LLAMA3, "", "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n") /* Llama 3.2 */
ROW(0x4f7179e5, 328, CHATML, "You are a helpful assistant.", NULL) /* Qwen2 */
ROW(0xec332e36, 2506, CHATML, "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.", NULL) /* Qwen2.5 */
ROW(0xf44b0207, 4116, CHATML, NULL, NULL) /* Qwen3 */
ROW(0x2819f267, 4168, CHATML, NULL, NULL) /* Qwen3, another revision */
ROW(0x40e97656, 2630, CHATML, NULL, NULL) /* Qwen3-Instruct-2507 */
ROW(0xbccc7195, 368, CHATML, "You are a helpful AI assistant named SmolLM, trained by Hugging Face", NULL) /* SmolLM2 */
ROW(0xc3652ffc, 175, CHATML, NULL, NULL) /* demo and tests/data/tiny */
ROW(0xdfa48e42, 672, GEMMA, NULL, NULL) /* tests: gemma3 */
ROW(0x30456413, 585, LLAMA2, NULL, NULL) /* tests: llama2 */
ROW(0x64107ec2, 337, LLAMA3, NULL, NULL) /* tests: llama3.0 */
ROW(0x2dc19aea, 946, LLAMA3, "", "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n") /* tests: llama3.1 */
ROW(0xd5af6408, 1079, LLAMA3, "", "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n") /* tests: llama3.2 */
ROW(0xe14c1a0b, 302, CHATML, "You are a helpful assistant.", NULL) /* tests: qwen2 */
ROW(0xcc3ac058, 963, CHATML, "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.", NULL) /* tests: qwen2.5 */
ROW(0x3e29bac2, 834, CHATML, NULL, NULL) /* tests: qwen3 */
ROW(0x0c7fa0c5, 342, CHATML, "You are a helpful AI assistant named SmolLM, trained by Hugging Face", NULL) /* tests: smollm2 */
