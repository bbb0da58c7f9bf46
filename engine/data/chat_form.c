#include "engine/data/chat_form.h"

#define BEGIN "<｜begin▁of▁sentence｜>"
#define END "<｜end▁of▁sentence｜>"
#define USER "<｜User｜>"
#define ASSISTANT "<｜Assistant｜>"

#define REFUSE_ROLE                                                                                \
    "{{- raise_exception(\"role '\" ~ m.role ~ \"' is not built in for this form\") }}"

/* What V3 and its successors share: system texts first, a blank line between them. */
#define SYSTEM_FIRST                                                                               \
    "{%- set ns = namespace(system='') %}"                                                         \
    "{%- for m in messages if m.role == 'system' %}"                                               \
    "{%- set ns.system = ns.system ~ ('\\n\\n' if not loop.first else '') ~ m.content %}"          \
    "{%- endfor %}" BEGIN "{{- ns.system }}"

static const struct {
    const char *name, *text;
} forms[CHAT_FORM_COUNT] = {
    [CHAT_FORM_LLM] = {"llm",
                       BEGIN "{%- for m in messages %}"
                             "{%- if m.role == 'system' %}{{- m.content ~ '\\n\\n' }}"
                             "{%- elif m.role == 'user' %}{{- 'User: ' ~ m.content ~ '\\n\\n' }}"
                             "{%- elif m.role == 'assistant' %}{{- 'Assistant: ' ~ m.content }}" END
                             "{%- else %}" REFUSE_ROLE "{%- endif %}"
                             "{%- endfor %}"
                             "{%- if add_generation_prompt %}{{- 'Assistant:' }}{%- endif %}"                        },
    [CHAT_FORM_CODER] =
        {"coder",
                       BEGIN "{%- for m in messages %}"
               "{%- if m.role == 'system' %}"
               "{{- m.content ~ ('' if m.content.endswith('\\n') else '\\n') }}"
               "{%- elif m.role == 'user' %}{{- '### Instruction:\\n' ~ m.content ~ '\\n' }}"
               "{%- elif m.role == 'assistant' %}"
               "{{- '### Response:\\n' ~ m.content ~ '\\n<|EOT|>\\n' }}"
               "{%- else %}" REFUSE_ROLE "{%- endif %}"
               "{%- endfor %}"
               "{%- if add_generation_prompt %}{{- '### Response:\\n' }}{%- endif %}"                                },
    [CHAT_FORM_V3] = {"v3",    SYSTEM_FIRST
                      "{%- for m in messages %}"
                      "{%- if m.role == 'user' %}{{- '" USER "' ~ m.content }}"
                      "{%- elif m.role == 'assistant' %}{{- '" ASSISTANT "' ~ m.content }}" END
                      "{%- elif m.role != 'system' %}" REFUSE_ROLE "{%- endif %}"
                      "{%- endfor %}"
                      "{%- if add_generation_prompt %}{{- '" ASSISTANT "' }}{%- endif %}"},
    [CHAT_FORM_R1] = {"r1",    SYSTEM_FIRST
                      "{%- for m in messages %}"
                      "{%- if m.role == 'user' %}{{- '" USER "' ~ m.content }}"
                      "{%- elif m.role == 'assistant' %}"
                      "{{- '" ASSISTANT "' ~ m.content.split('</think>')[-1] }}" END
                      "{%- elif m.role != 'system' %}" REFUSE_ROLE "{%- endif %}"
                      "{%- endfor %}"
                      "{%- if add_generation_prompt %}{{- '" ASSISTANT "' }}"
                      "{%- if thinking is not defined or thinking %}{{- '<think>\\n' }}{%- endif %}"
                      "{%- endif %}"                                                     },
    [CHAT_FORM_V31] = {"v31",   SYSTEM_FIRST
                       "{%- for m in messages %}"
                       "{%- if m.role == 'user' %}{{- '" USER "' ~ m.content }}"
                       "{%- elif m.role == 'assistant' %}"
                       "{{- '" ASSISTANT "</think>' ~ m.content.split('</think>', 1)[-1] }}" END
                       "{%- elif m.role != 'system' %}" REFUSE_ROLE "{%- endif %}"
                       "{%- endfor %}"
                       "{%- if add_generation_prompt %}{{- '" ASSISTANT "' }}"
                       "{{- '<think>' if thinking is defined and thinking else '</think>' }}"
                       "{%- endif %}"                                                   },
};

const char *chat_form_name(enum chat_form form) {
    assert(form < CHAT_FORM_COUNT);
    return forms[form].name;
}

const char *chat_form_template(enum chat_form form) {
    assert(form < CHAT_FORM_COUNT);
    return forms[form].text;
}

int chat_form_parse(const char *name, enum chat_form *ret, struct hai_err *err) {
    for (int i = 0; i < CHAT_FORM_COUNT; i++)
        if (hai_streq(forms[i].name, name)) {
            *ret = (enum chat_form)i;
            return 0;
        }
    return hai_fail(err, -EINVAL, "form '%.40s'; expected llm, coder, v3, r1 or v31", name);
}

int chat_form_guess(const struct tokenizer *t, int32_t end, enum chat_form *ret,
                    struct hai_err *err) {
    int32_t eot = tokenizer_added(t, "<|EOT|>");

    if (tokenizer_added(t, USER) >= 0) {
        bool thinks = tokenizer_added(t, "<think>") >= 0;
        *ret = !thinks                                         ? CHAT_FORM_V3
               : tokenizer_added(t, "<｜search▁begin｜>") >= 0 ? CHAT_FORM_V31
                                                               : CHAT_FORM_R1;
        return 0;
    }
    if (eot >= 0 && tokenizer_added(t, "<|User|>") >= 0) {
        if (end >= 0 && end != eot)
            return hai_fail(err, -ENOENT,
                            "a base model of Coder (its texts end with token %d, not "
                            "<|EOT|>) has no form of chat",
                            end);
        *ret = CHAT_FORM_CODER;
        return 0;
    }
    if (tokenizer_added(t, BEGIN) < 0)
        return hai_fail(err, -ENOENT,
                        "no chat template comes with the model, and none that is "
                        "built in fits its tokenizer");
    *ret = CHAT_FORM_LLM;
    return 0;
}
