/* PROTOCOL.md section 8 for Spin: one client, one server, a network that loses, repeats and delays, and a crash of either
 * side at any moment. A key is named by its step. What is durable: c, s. Checked: the client is level or one ahead
 * (never behind, never further), so that the next handshake works, and no key serves two sessions.
 * With -DFLAW_CLIENT_LATE the client moves after Finished; with -DFLAW_ANY_STEP an advance does not name its step.
 */
#define LAST 4
byte c = 0, s = 0;              /* the durable steps */
bool hello[LAST + 1];           /* ClientHellos under each step that somebody recorded: they come again at any time */
bool finished[LAST + 1];        /* Finished of each step, held back */
byte sessions[LAST + 1];        /* established under each key */

active proctype history() {
	do
	:: c < LAST && s < LAST ->
		if
		:: hello[c] = true                                      /* step 1: the client asks */
		:: hello[s] -> skip                                     /* step 2: the server answers, nothing moves */
		:: s < LAST && hello[s + 1] -> s = s + 1                /* one ahead: catch up, then answer */
		:: hello[c] && c == s ->                                /* step 3: the client has the answer */
#ifdef FLAW_CLIENT_LATE
			finished[c] = true
#else
			c = c + 1;                                      /* a crash here leaves it one ahead */
			if :: finished[c - 1] = true :: skip fi
#endif
		:: finished[s] -> sessions[s]++; s = s + 1              /* step 4; Config may be lost: it moves nothing */
#ifdef FLAW_ANY_STEP
		:: s > 0 && finished[s - 1] -> sessions[s - 1]++; s = s + 1
#endif
		:: s > 0 && finished[s - 1] -> skip                     /* too late: its step has passed */
		fi;
		assert(c == s || c == s + 1);
		assert(sessions[0] <= 1 && sessions[1] <= 1 && sessions[2] <= 1 && sessions[3] <= 1);
	:: else -> break
	od
}
