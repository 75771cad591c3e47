/* The canonical form of a program's text, level L0 of the identity ladder: what `memory/identity.py` defines, in one
 * pass over UTF-8. Notable:
 * - Python's version is the definition and stays. This one answers for what programs usually are and returns UNSURE for
 *   the rest (tabs, carriage returns, letters beyond ASCII outside strings, what may be half of an exponent). Where it
 *   answers, the bytes are the same; tests hold the two together.
 * - A jump that the processor guesses wrong costs as much as five characters: blanks, brackets and operators go through
 *   the same instructions, words through a loop of their own.
 * - Nothing is allocated and nothing is kept between calls but one table; stacks are bounded.
 * Not covered: hashing, and everything that is UNSURE.
 */

#include <stdint.h>
#include <string.h>

#define UNSURE (-1)    /* ask Python's version */
#define NO_TOKENS (-2) /* the text does not tokenize */

#define LEVELS 100   /* of indentation: as many as Python allows */
#define BRACKETS 127 /* open at a time; a power of two less one */
#define HELD 31      /* written for a blank that holds two tokens apart */
#define DOTS 2       /* of the four bits in which neighbours meet: dots and digits */

/* An entry of the table, from the lowest bit: how a character meets what stands before it (4 bits) and what stands
 * behind it (4 bits), as `_KINDS` of memory/identity.py has it; whether it stays, as all but blanks do; its class; in
 * the last byte, what it adds to the number of open brackets. */
#define BEHIND(entry) ((entry) >> 4 & 15)
#define STAYS(entry) ((entry) >> 8 & 1)
#define STEP(entry) ((entry) >> 24)
#define SPECIAL (1 << 9)
#define WORD (1 << 10)
#define E_OR_J (1 << 11)

static int32_t table[256];

#ifndef BUILT_OF
#define BUILT_OF ""
#endif
/* The hash of this file when the library was built. */
const char *built_of(void) { return BUILT_OF; }

static int is_digit(uint8_t c) { return c >= '0' && c <= '9'; }

static int is_word(uint8_t c) { return is_digit(c) || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '_'; }

/* Once, before the first text. `kinds`: 256 bytes. */
void prepare(const uint8_t *kinds) {
    for (int c = 0; c < 256; c++) {
        const int special = c < 32 || c > 126 || strchr("\"'#\\!$?`", c);
        const int step = c == '(' || c == '[' || c == '{' ? 1 : c == ')' || c == ']' || c == '}' ? -1 : 0;
        table[c] = kinds[c] | (c != ' ') << 8 | (special ? SPECIAL : 0) | (is_word(c) ? WORD : 0);
        table[c] |= (c && strchr("eEjJ", c) ? E_OR_J : 0) | (int32_t)((uint32_t)step << 24);
    }
}

/* One behind the last quote of the string that begins at `start`; 0 where it is left open. */
static int64_t string_end(const uint8_t *text, int64_t start, int64_t size) {
    const uint8_t quote = text[start];
    const int triple = start + 2 < size && text[start + 1] == quote && text[start + 2] == quote;
    for (int64_t at = start + (triple ? 3 : 1); at < size; at++) {
        if (text[at] == '\\') {
            at++;
        } else if (text[at] == quote) {
            if (!triple) return at + 1;
            if (at + 2 < size && text[at + 1] == quote && text[at + 2] == quote) return at + 3;
        } else if (text[at] == '\n' && !triple) {
            return 0;
        }
    }
    return 0;
}

/* Braces that no equal neighbour doubles. */
static int64_t single_braces(const uint8_t *text, int64_t start, int64_t end, uint8_t brace) {
    int64_t count = 0;
    for (int64_t at = start; at < end; at++) {
        if (text[at] != brace) continue;
        if (at + 1 < end && text[at + 1] == brace) {
            at++;
        } else {
            count++;
        }
    }
    return count;
}

/* Whether an f-string ends within a field: Python >= 3.12 reads such a text differently than this module. */
static int has_nested_quotes(const uint8_t *text, int64_t start, int64_t end) {
    const uint8_t last = start > 0 ? text[start - 1] | 32 : 0, other = start > 1 ? text[start - 2] | 32 : 0;
    if (last != 'f' && (last != 'r' || other != 'f')) return 0;
    return single_braces(text, start, end, '{') != single_braces(text, start, end, '}');
}

/* Whether the word that ends here, in code that is written, begins with a digit. */
static int is_number(const uint8_t *code, int64_t end) {
    while (end > 0 && is_word(code[end - 1])) end--;
    return is_digit(code[end]);
}

static int is_void(uint8_t c) { return c == ' ' || c == '\n' || c == '\\' || c == '#'; }

/* Whether the word that ends at `last` may be a number that blanks hold apart from its exponent. */
static int may_split(const uint8_t *text, int64_t last) {
    const uint8_t *behind = text + last + 1;
    if (!(table[text[last]] & E_OR_J) || !last || !(BEHIND(table[text[last - 1]]) & DOTS)) return 0;
    return is_void(behind[0]) || ((behind[0] == '+' || behind[0] == '-') && is_void(behind[1]));
}

/* Where the line ends that `at` is on. */
static int64_t line_end(const uint8_t *text, int64_t at, int64_t size) {
    return (const uint8_t *)memchr(text + at, '\n', size - at) - text;
}

/* The next character of code from the start of a line on, over blanks, comments and empty lines, or `size`; `column` is
 * its distance from the start of its line. */
static int64_t next_code(const uint8_t *text, int64_t at, int64_t size, int64_t *column) {
    while (at < size) {
        const int64_t start = at;
        while (text[at] == ' ') at++;
        *column = at - start;
        if (text[at] == '#') at = line_end(text, at, size);
        if (text[at] != '\n') break;
        at++;
    }
    return at;
}

/* The level of a line that begins at `column`; LEVELS + 1 where there are too many, -1 where Python refuses it.
 * `columns`: of the blocks that are open. */
static int32_t level_at(int64_t column, int32_t level, int64_t *columns) {
    if (column > columns[level]) {
        level++;
        if (level <= LEVELS) columns[level] = column;
        return level;
    }
    while (column < columns[level]) level--;
    return column == columns[level] ? level : -1;
}

/* `size` bytes of text, the last of them a line end -> the length of its canonical form in `out`, or a verdict below 0.
 * `out` has room for 5 * size + 64 bytes: code, and behind it, until they are moved to its end, what else there is. */
int64_t canonical(const uint8_t *text, int64_t size, uint8_t *out) {
    uint8_t *const widths = out + size + 8, *const strings = widths + 2 * size + 8;
    uint8_t *widths_end = widths, *strings_end = strings;
    int64_t columns[LEVELS + 1] = {0}, column = 0;
    int64_t at = 0, end, used = 0, continued = -1; /* `used` when a backslash last joined two lines */
    int32_t level = 0, brackets = 0, extremes = 0; /* extremes: every bit that `brackets` ever had */
    int32_t before = 0, gap = 0;                   /* the last character's bits; all bits set behind a blank */

    if (memchr(text, 0, size)) return NO_TOKENS;
    if (memchr(text, '\r', size)) return UNSURE;
line:
    at = next_code(text, at, size, &column);
    if (at == size) goto finish;
    if (text[at] == '\\') return NO_TOKENS;
    if (text[at] == '\t') return UNSURE;
    if (brackets) {
        gap = -1;
    } else {
        level = level_at(column, level, columns);
        if (level < 0) return NO_TOKENS;
        if (level > LEVELS) return UNSURE;
        for (int bits = 0; bits < 32; bits += 8) *widths_end++ = 4 * level >> bits & 255;
        if (used) out[used++] = '\n';
        before = gap = 0;
    }
    for (;;) {
        const uint8_t c = text[at];
        const int32_t entry = table[c];
        if (entry & SPECIAL) {
            switch (c) {
            case '#':
                at = line_end(text, at, size);
                /* fall through */
            case '\n':
                at++;
                goto line;
            case '\\':
                if (text[at + 1] != '\n') return NO_TOKENS;
                for (at += 2; at < size && text[at] == ' '; at++) {}
                if (at == size || text[at] == '\\') return NO_TOKENS;
                continued = used;
                gap = -1;
                continue;
            case '"':
            case '\'':
                end = string_end(text, at, size);
                if (!end || has_nested_quotes(text, at, end)) return NO_TOKENS;
                if (strings_end != strings) *strings_end++ = 0;
                memcpy(strings_end, text + at, end - at);
                strings_end += end - at;
                at = end - 1;
                break;
            case '!':
                if (text[at + 1] != '=') return NO_TOKENS;
                break;
            default:
                return c == '\t' || c > 127 ? UNSURE : NO_TOKENS;
            }
        }
        const int32_t joint = before & entry & gap & 15;
        int32_t held = joint != 0;
        if (joint == DOTS) {
            if (out[used - 1] == '.' && entry & E_OR_J) return UNSURE;
            held = out[used - 1] == '.' || is_number(out, used);
        }
        out[used] = HELD;
        out[used + held] = c;
        used += held + STAYS(entry);
        before = STAYS(entry) ? BEHIND(entry) : before;
        gap = STAYS(entry) - 1;
        brackets += STEP(entry);
        extremes |= brackets;
        if (entry & WORD) {
            while (table[text[at + 1]] & WORD) out[used++] = text[++at];
            if (may_split(text, at)) return UNSURE;
            before = BEHIND(table[text[at]]);
        }
        at++;
    }
finish:
    if (brackets || extremes & ~BRACKETS || continued == used) return NO_TOKENS;
    out[used++] = 0;
    memmove(out + used, widths, widths_end - widths);
    used += widths_end - widths;
    out[used++] = 0;
    memmove(out + used, strings, strings_end - strings);
    return used + (strings_end - strings);
}
